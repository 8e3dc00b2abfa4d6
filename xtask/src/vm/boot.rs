//! One boot: starts QEMU, passes the command's output on, keeps the deadline, gives the result.

use super::channels::{Channels, PORTS};
use super::cpio::Archive;
use super::guest::Binaries;
use super::image::{self, With};
use super::kernels::Kernel;
use super::qemu::Qemu;
use super::verdict::{Control, File, Verdict, judge};
use super::work::Work;
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Where the command's output goes.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Sink {
    /// To this process's own standard output and error, as it comes.
    Inherit,
    /// Into [`Finished`].
    Capture,
    /// No command: a shell on this terminal.
    Terminal,
}

/// What to boot and run.
pub(crate) struct Boot {
    kernel: Kernel,
    qemu: Qemu,
    image: PathBuf,
    init: PathBuf,
    /// Files and directories of this machine, and their paths in the guest.
    pub(crate) add: Vec<(PathBuf, String)>,
    /// Paths in the guest, and where they go on this machine.
    pub(crate) out: Vec<(String, String)>,
    pub(crate) command: Vec<String>,
    pub(crate) directory: String,
    /// MiB.
    pub(crate) memory: u32,
    pub(crate) timeout: Duration,
    pub(crate) icount: bool,
    pub(crate) sink: Sink,
}

/// A boot that gave a verdict.
pub(crate) struct Finished {
    /// The command's exit status.
    pub(crate) status: i32,
    /// What it wrote, where [`Sink::Capture`] was asked for.
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Boot {
    /// A boot of `kernel` with this checkout's programs in PATH.
    pub(crate) fn new(kernel: Kernel, with: &[With], binaries: &Binaries) -> Result<Self> {
        Ok(Self {
            kernel,
            qemu: Qemu::find()?,
            image: image::fetch(with)?,
            init: binaries.init(),
            add: binaries.in_path(),
            out: Vec::new(),
            command: Vec::new(),
            directory: "/root".into(),
            memory: 2048,
            timeout: Duration::from_secs(300),
            icount: false,
            sink: Sink::Inherit,
        })
    }

    /// The kernel's release, as `6.12.95+deb12-cloud-amd64`.
    pub(crate) fn release(&self) -> &str {
        &self.kernel.release
    }

    /// Boots, runs, and powers off. A boot that dies before the first process is tried once more.
    ///
    /// # Errors
    /// When the machine gave no verdict, or its kernel complained. The console log is kept then.
    pub(crate) fn run(&self) -> Result<Finished> {
        match self.attempt()? {
            (Verdict::DiedEarly(why), console, _) => {
                eprintln!(
                    "xtask: WARNING: {}: {why}; console: {}; trying once more",
                    self.kernel.release,
                    console.display()
                );
                let (verdict, console, finished) = self.attempt()?;
                self.conclude(verdict, &console, finished)
            }
            (verdict, console, finished) => self.conclude(verdict, &console, finished),
        }
    }

    fn conclude(
        &self,
        verdict: Verdict,
        console: &Path,
        mut finished: Finished,
    ) -> Result<Finished> {
        match verdict {
            Verdict::Status(status) => {
                fs::remove_file(console).ok();
                finished.status = status;
                Ok(finished)
            }
            Verdict::DiedEarly(why) | Verdict::Failed(why) => {
                if self.sink == Sink::Capture {
                    eprint!("{}", String::from_utf8_lossy(&finished.stdout));
                    eprint!("{}", String::from_utf8_lossy(&finished.stderr));
                }
                bail!(
                    "{}: {why}; console: {}",
                    self.kernel.release,
                    console.display()
                )
            }
        }
    }

    fn attempt(&self) -> Result<(Verdict, PathBuf, Finished)> {
        let work = Work::new(&self.kernel.release)?;
        let initrd = work.directory.join("initrd");
        fs::write(&initrd, self.archive()?)
            .with_context(|| format!("could not write {}", initrd.display()))?;
        let channels = Channels::listen(&work.directory, self.sink)?;
        let mut machine = self.start(&work, &initrd)?;
        let timed_out = wait(&mut machine, self.timeout)?;
        let [stdout, stderr, control] = channels.finish()?;
        let control = Control::parse(&control)?;
        let console = fs::read(&work.console).unwrap_or_default();
        let verdict = judge(&control, &String::from_utf8_lossy(&console), timed_out);
        if matches!(verdict, Verdict::Status(_)) {
            self.deliver(&control)?;
        }
        Ok((
            verdict,
            work.console.clone(),
            Finished {
                status: -1,
                stdout,
                stderr,
            },
        ))
    }

    /// The initial file system: first process, orders, modules, added files.
    fn archive(&self) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        archive.copy(&self.init, "init")?;
        archive.file("orders", 0o600, &self.orders())?;
        for (place, module) in self.kernel.modules.iter().enumerate() {
            let name = module.file_name().unwrap_or_default().to_string_lossy();
            archive.copy(module, &format!("modules/{place:02}-{name}"))?;
        }
        for (host, guest) in &self.add {
            let Some(path) = guest.strip_prefix('/') else {
                bail!("{guest} is not an absolute path of the guest");
            };
            archive.copy(host, &format!("add/{path}"))?;
        }
        archive.finish()
    }

    fn orders(&self) -> Vec<u8> {
        let mut orders = Vec::new();
        let mut field = |key: &str, value: &str| {
            orders.extend_from_slice(format!("{key}={value}\0").as_bytes());
        };
        field("directory", &self.directory);
        if self.sink == Sink::Terminal {
            field("shell", "1");
        }
        self.command
            .iter()
            .for_each(|argument| field("arg", argument));
        self.out.iter().for_each(|(guest, _)| field("out", guest));
        orders
    }

    fn start(&self, work: &Work, initrd: &Path) -> Result<Child> {
        let mut command = self.qemu.command();
        command.args([
            "-machine",
            "q35",
            "-cpu",
            "max",
            "-display",
            "none",
            "-nic",
            "none",
            "-no-reboot",
        ]);
        command.args(["-no-user-config", "-m", &self.memory.to_string()]);
        if self.icount {
            command.args([
                "-accel",
                "tcg,thread=single",
                "-icount",
                "shift=0",
                "-smp",
                "1",
            ]);
        } else {
            command.args(["-accel", "tcg,thread=multi", "-smp", "2"]);
        }
        command
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(initrd);
        // `quiet` keeps the slow console out of the way; errors and worse still show.
        // The order of the LSMs is the one that guard's doctor asks for: bpf is asked
        // before landlock. What a kernel does not have of them it leaves out.
        command.args([
            "-append",
            "console=ttyS0 quiet panic=-1 mitigations=off \
             lsm=lockdown,bpf,landlock,yama,loadpin,safesetid,integrity,apparmor,tomoyo,ipe",
        ]);
        command.args([
            "-drive",
            &format!(
                "file={},if=virtio,format=raw,snapshot=on",
                self.image.display()
            ),
        ]);
        command.args(["-device", "virtio-serial-pci"]);
        for port in PORTS {
            let socket = work.directory.join(port);
            command.args([
                "-chardev",
                &format!("socket,id={port},path={}", socket.display()),
            ]);
            command.args([
                "-device",
                &format!("virtserialport,chardev={port},name={port}"),
            ]);
        }
        if self.sink == Sink::Terminal {
            command.args(["-serial", "mon:stdio"]);
        } else {
            command.args([
                "-monitor",
                "none",
                "-serial",
                &format!("file:{}", work.console.display()),
            ]);
            command.stdin(Stdio::null());
        }
        command.spawn().context("could not start QEMU")
    }

    /// Writes the files out of the guest where they were asked for.
    fn deliver(&self, control: &Control) -> Result<()> {
        if let Some(path) = control.missing.first() {
            bail!("the guest has no {path}");
        }
        for (guest, host) in &self.out {
            let wanted =
                |file: &&File| file.path == *guest || file.path.starts_with(&format!("{guest}/"));
            for file in control.files.iter().filter(wanted) {
                let target = PathBuf::from(format!("{host}{}", &file.path[guest.len()..]));
                write(file, &target)
                    .with_context(|| format!("could not write {}", target.display()))?;
            }
        }
        Ok(())
    }
}

fn write(file: &File, target: &Path) -> Result<()> {
    let Some(content) = &file.content else {
        return Ok(fs::create_dir_all(target)?);
    };
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(target, content)?;
    Ok(fs::set_permissions(
        target,
        fs::Permissions::from_mode(file.mode),
    )?)
}

/// Waits for the end, or makes it at the deadline. True when the deadline passed.
fn wait(machine: &mut Child, timeout: Duration) -> Result<bool> {
    let started = Instant::now();
    loop {
        if let Some(status) = machine.try_wait().context("could not wait for QEMU")? {
            if !status.success() {
                eprintln!("xtask: QEMU ended with {status}");
            }
            return Ok(false);
        }
        if started.elapsed() > timeout {
            machine.kill().context("could not kill QEMU")?;
            machine.wait().context("could not wait for QEMU")?;
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
