//! The first process of a test machine: makes it an ordinary Linux system, runs one command as
//! root, hands its output, its exit status and the files asked for to the host, and powers off.
//!
//! Three virtio serial ports lead to the host: standard output, standard error and control. The
//! console carries only the kernel's messages and this program's own errors.

mod orders;
mod ports;
mod root;
mod run;
mod sys;

use anyhow::{Context, Result};
use orders::Orders;

fn main() {
    // Whatever goes wrong is said on the console. The host then misses the verdict and fails.
    if let Err(error) = work() {
        eprintln!("vm-init: {error:#}");
    }
    sys::power_off();
}

fn work() -> Result<()> {
    root::early().context("could not mount the first file systems")?;
    let orders = Orders::read("/orders").context("could not read /orders")?;
    root::modules("/modules").context("could not load the kernel modules")?;
    let mut ports = ports::Ports::open().context("could not open the ports to the host")?;
    ports.say("init")?;
    root::switch(&orders).context("could not switch to the root file system")?;
    root::settle().context("could not set the system up")?;
    let status = if orders.shell {
        run::shell()?
    } else {
        run::command(&orders, &ports)?
    };
    for path in &orders.out {
        ports.send(path)?;
    }
    ports.say(&format!("status {status}"))
}
