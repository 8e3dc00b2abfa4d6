//! Which walls stand around a sandbox, by what was asked for and what the host
//! has.

use std::sync::OnceLock;

use super::spec;
use crate::audit::event::Wall;
use crate::doctor::{LandlockPlace, landlock_place};
use crate::policy::CompiledPolicy;
use crate::wire::{Enforcement, RunRequest, escape};

/// Where Landlock is on this host, found out once: it cannot change.
#[must_use]
pub fn landlock_here() -> LandlockPlace {
    static PLACE: OnceLock<LandlockPlace> = OnceLock::new();
    *PLACE.get_or_init(|| {
        let place = landlock_place();
        if place == LandlockPlace::BeforeBpf {
            tracing::info!(
                "landlock is asked before bpf on this host and would hide attempts from the \
                 trail: there is no Landlock ruleset (see guard doctor)"
            );
        }
        place
    })
}

/// What the launcher puts up; `None` where nothing may be denied.
#[must_use]
pub fn of_launch(
    request: &RunRequest,
    policy: &CompiledPolicy,
    landlock: LandlockPlace,
) -> Option<spec::Walls> {
    if request.audit_only {
        return None;
    }
    // Without the kernel programs the policy's rules are not applied, by none.
    let rules = request.enforcement == Enforcement::Kernel;
    let with_landlock = rules && landlock == LandlockPlace::AfterBpf;
    Some(spec::Walls {
        io_uring: policy.limits().io_uring,
        ipc_namespace: rules,
        max_write_size: policy.max_write_size().filter(|_| rules),
        abstract_sockets: !policy.abstract_names().is_empty(),
        write_roots: with_landlock.then(|| {
            policy
                .write_roots()
                .iter()
                .map(|root| escape(root))
                .collect()
        }),
    })
}

/// Whether the limits of `[process]` hold.
#[must_use]
pub fn limits_hold(request: &RunRequest) -> bool {
    request.enforcement == Enforcement::Kernel && !request.audit_only
}

/// Their names for the trail.
#[must_use]
pub fn names(
    request: &RunRequest,
    policy: &CompiledPolicy,
    launch: Option<&spec::Walls>,
) -> Vec<Wall> {
    let limits = limits_hold(request)
        && (policy.limits().any() || launch.is_some_and(|w| w.max_write_size.is_some()));
    [
        (
            Wall::KernelPrograms,
            request.enforcement == Enforcement::Kernel,
        ),
        (Wall::Seccomp, launch.is_some()),
        (
            Wall::Landlock,
            launch.is_some_and(|w| w.write_roots.is_some()),
        ),
        (Wall::Limits, limits),
    ]
    .into_iter()
    .filter_map(|(wall, stands)| stands.then_some(wall))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Document, Lookup, ResolveContext, compile, resolve};
    use crate::wire::WIRE_VERSION;

    fn policy() -> CompiledPolicy {
        let text = b"version = 1\n[files]\nwrite = [\"/srv/**\"]\nmax_write_size = \"1MiB\"\n\
            [process]\nio_uring = true\n";
        let document = Document::parse(text, "test").unwrap();
        let includes = Lookup::built_in();
        let context = ResolveContext {
            home: None,
            cwd: "/srv".into(),
            tmp: "/tmp/x".into(),
            args: vec![],
            set: vec![],
            includes: &includes,
            launch: None,
            own: Vec::new(),
        };
        compile(&resolve(&document, &context).unwrap()).unwrap()
    }

    fn request(enforcement: Enforcement, audit_only: bool) -> RunRequest {
        RunRequest {
            version: WIRE_VERSION,
            policy: None,
            name: None,
            user: None,
            set: vec![],
            audit_only,
            enforcement,
            audit_file: None,
            command: vec![],
            cwd: "/".into(),
            env: vec![],
            umask: 0,
            sudo: None,
        }
    }

    #[test]
    fn walls_stand_where_they_are_wanted_and_hide_nothing() {
        use Enforcement::{GatewayOnly, Kernel};
        use LandlockPlace::{Absent, AfterBpf, BeforeBpf};
        use Wall::{KernelPrograms, Landlock, Limits, Seccomp};
        let policy = policy();
        for (enforcement, audit_only, landlock, expected) in [
            (
                Kernel,
                false,
                AfterBpf,
                &[KernelPrograms, Seccomp, Landlock, Limits][..],
            ),
            (Kernel, false, BeforeBpf, &[KernelPrograms, Seccomp, Limits]),
            (Kernel, false, Absent, &[KernelPrograms, Seccomp, Limits]),
            (Kernel, true, AfterBpf, &[KernelPrograms]),
            (GatewayOnly, false, AfterBpf, &[Seccomp]),
            (GatewayOnly, true, AfterBpf, &[]),
        ] {
            let request = request(enforcement, audit_only);
            let walls = of_launch(&request, &policy, landlock);
            assert_eq!(names(&request, &policy, walls.as_ref()), expected);
        }
        let walls = of_launch(&request(Kernel, false), &policy, AfterBpf).unwrap();
        assert_eq!(walls.write_roots, Some(vec!["/srv".to_owned()]));
        assert_eq!(walls.max_write_size, Some(1 << 20));
        assert!(walls.io_uring);
    }
}
