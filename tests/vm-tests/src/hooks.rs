//! Each hook: what it stops, what it lets pass, what it reports.

use guard_daemon::kernel::Kernel;

use crate::Test;
use crate::sandbox::parent;

pub const TESTS: &[Test] = &[("canary", canary)];

fn canary(kernel: &mut Kernel) {
    parent(kernel);
    kernel.canary().expect("the self-test");
    kernel.canary().expect("the self-test, again");
}
