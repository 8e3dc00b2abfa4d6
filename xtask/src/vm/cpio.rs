//! Writes the guest's initial file system: an archive in the kernel's `newc` cpio format
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// An archive under construction. Everything in it belongs to root.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    directories: BTreeSet<String>,
    inode: u32,
}

impl Archive {
    /// Adds a regular file with these bytes. `name` has no leading slash.
    pub(crate) fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.parents(name)?;
        self.entry(name, REGULAR | (mode & 0o7777), content)
    }

    /// Adds what `source` is on this machine, with all below it, as `name`.
    pub(crate) fn copy(&mut self, source: &Path, name: &str) -> Result<()> {
        let meta =
            fs::metadata(source).with_context(|| format!("could not read {}", source.display()))?;
        self.copy_as(source, name, &meta)
    }

    fn copy_as(&mut self, source: &Path, name: &str, meta: &fs::Metadata) -> Result<()> {
        let mode = meta.permissions().mode() & 0o7777;
        if meta.is_symlink() {
            let target = fs::read_link(source)
                .with_context(|| format!("could not read {}", source.display()))?;
            self.parents(name)?;
            return self.entry(name, LINK | 0o777, target.as_os_str().as_encoded_bytes());
        }
        if meta.is_file() {
            let content =
                fs::read(source).with_context(|| format!("could not read {}", source.display()))?;
            return self.file(name, mode, &content);
        }
        if !meta.is_dir() {
            bail!(
                "{} is neither a file nor a directory nor a link",
                source.display()
            );
        }
        self.parents(name)?;
        self.directory(name, mode)?;
        let mut below: Vec<_> = fs::read_dir(source)
            .with_context(|| format!("could not read {}", source.display()))?
            .collect::<std::io::Result<_>>()?;
        below.sort_by_key(fs::DirEntry::file_name);
        for entry in below {
            let child = format!("{name}/{}", entry.file_name().to_string_lossy());
            self.copy_as(&entry.path(), &child, &entry.path().symlink_metadata()?)?;
        }
        Ok(())
    }

    fn parents(&mut self, name: &str) -> Result<()> {
        for (at, _) in name.match_indices('/') {
            self.directory(&name[..at], 0o755)?;
        }
        Ok(())
    }

    fn directory(&mut self, name: &str, mode: u32) -> Result<()> {
        if self.directories.insert(name.to_owned()) {
            self.entry(name, DIRECTORY | mode, b"")?;
        }
        Ok(())
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        let size = u32::try_from(content.len()).with_context(|| {
            format!("{name} is over 4 GiB, too large for the guest's initial file system")
        })?;
        self.inode += 1;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let fields = [self.inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08X}").as_bytes());
        }
        let length = u32::try_from(name.len() + 1).context("a name is too long")?;
        self.bytes
            .extend_from_slice(format!("{length:08X}{:08X}", 0).as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, b"")?;
        Ok(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn headers_and_padding_are_as_the_kernel_reads_them() {
        let mut archive = Archive::default();
        archive.file("a/b", 0o755, b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        assert!(bytes.starts_with(b"070701"));
        assert_eq!(bytes.len() % 4, 0);
        // 110 bytes of header, "a\0", padded to 112: the directory first, then the file.
        assert_eq!(&bytes[112..118], b"070701");
        assert_eq!(&bytes[112 + 14..112 + 22], b"000081ED");
        // Its name fills 110 + 4 bytes, padded to 116; the content follows.
        assert_eq!(&bytes[112 + 116..112 + 121], b"hello");
    }

    #[test]
    fn a_directory_comes_once() {
        let mut archive = Archive::default();
        archive.file("d/one", 0o644, b"").unwrap();
        archive.file("d/two", 0o644, b"").unwrap();
        let text = String::from_utf8_lossy(&archive.finish().unwrap()).into_owned();
        assert_eq!(
            text.matches("\0d\0").count() + text.matches("00d\0").count(),
            1
        );
    }
}
