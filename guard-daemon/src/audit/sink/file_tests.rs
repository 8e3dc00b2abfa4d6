use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use super::super::super::samples;
use super::super::super::verify::verify;
use super::super::super::words::Digest;
use super::*;

/// A disk with an end.
#[derive(Debug, Default)]
struct Small {
    bytes: Vec<u8>,
    room: usize,
    cut_works: bool,
}

impl Storage for Small {
    fn lock(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn unlock(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let at = offset as usize;
        buffer.copy_from_slice(&self.bytes[at..at + buffer.len()]);
        Ok(())
    }
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(self.room);
        if n == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.extend_from_slice(&bytes[..n]);
        self.room -= n;
        Ok(n)
    }
    fn cut(&mut self, len: u64) -> io::Result<()> {
        if !self.cut_works {
            return Err(io::ErrorKind::Other.into());
        }
        self.bytes.truncate(len as usize);
        Ok(())
    }
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lines(bytes: &[u8]) -> Vec<serde_json::Value> {
    bytes
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).unwrap_or(serde_json::Value::Null))
        .collect()
}

#[test]
fn a_full_disk_costs_whole_lines_that_are_counted() {
    let events = samples::all();
    for cut_works in [true, false] {
        let one = {
            let mut trail = Trail::new(
                Small {
                    room: 1 << 20,
                    ..Small::default()
                },
                "b",
            );
            trail.append(&events[..1]).unwrap();
            trail.storage.bytes.len()
        };
        // Room for one line and a half.
        let small = Small {
            room: one + one / 2,
            cut_works,
            ..Small::default()
        };
        let mut trail = Trail::new(small, "b");
        let error = trail.append(&events[..3]).unwrap_err();
        assert!(
            matches!(error, AppendError::Write { lost: 2, .. }),
            "{error}"
        );
        assert!(matches!(
            trail.append(&events[..1]),
            Err(AppendError::Write { lost: 1, .. })
        ));
        trail.storage.room = 1 << 20;
        trail.append(&events[..1]).unwrap();
        assert_eq!(trail.unwritten, 0);
        let report = verify(&trail.storage.bytes[..]).unwrap();
        assert_eq!(report.torn, u64::from(!cut_works));
        let written = lines(&trail.storage.bytes);
        let notice = written.iter().find(|l| l["op"] == "unwritten").unwrap();
        assert_eq!(
            (notice["count"].as_u64(), &notice["reason"]),
            (Some(3), &"write-failed".into())
        );
    }
}

#[test]
fn a_restart_continues_the_chain() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log/guard/audit.jsonl");
    let events = samples::all();
    for _ in 0..3 {
        FileSink::open(&path, "b").unwrap().append(&events).unwrap();
    }
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(verify(&bytes[..]).unwrap().lines, 3 * events.len() as u64);
    let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path) & !0o640, 0);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
}

#[test]
fn two_writers_make_one_chain() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let event = samples::all().remove(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut sink = FileSink::open(&path, "b").unwrap();
                for _ in 0..50 {
                    sink.append(std::slice::from_ref(&event)).unwrap();
                }
            });
        }
    });
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(verify(&bytes[..]).unwrap().lines, 200);
}

#[test]
fn a_held_lock_is_an_error_after_a_while_and_the_event_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let mut sink = FileSink::open(&path, "b").unwrap();
    let other = std::fs::File::open(&path).unwrap();
    other.lock().unwrap();
    let events = &samples::all()[..1];
    assert!(matches!(sink.append(events), Err(AppendError::Lock(_))));
    drop(other);
    sink.append(events).unwrap();
    let written = lines(&std::fs::read(&path).unwrap());
    assert_eq!(written[0]["op"], "unwritten");
}

/// A trail of two lines, whole.
fn two_lines(path: &Path) -> Vec<u8> {
    FileSink::open(path, "b")
        .unwrap()
        .append(&samples::all()[..2])
        .unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn a_torn_line_is_kept_and_reported_wherever_it_was_torn() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let whole = two_lines(&path);
    let first = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
    for cut in [1, 10, first / 2, first + 1, first + 20, whole.len() - 2] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        drop(FileSink::open(&path, "b").unwrap());
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.starts_with(&whole[..cut]), "cut at {cut}");
        let report = verify(&bytes[..]).unwrap();
        assert_eq!(report.torn, 1, "cut at {cut}");
        let start = if cut > first { first } else { 0 };
        let notice = lines(&bytes).pop().unwrap();
        assert_eq!(notice["op"], "torn");
        assert_eq!(
            notice["fragment_hash"],
            Digest::of(&whole[start..cut]).as_str()
        );
    }
}

#[test]
fn a_repair_that_was_torn_itself_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let whole = two_lines(&path);
    std::fs::write(&path, &whole[..whole.len() - 30]).unwrap();
    drop(FileSink::open(&path, "b").unwrap());
    let repaired = std::fs::read(&path).unwrap();
    std::fs::write(&path, &repaired[..repaired.len() - 9]).unwrap();
    drop(FileSink::open(&path, "b").unwrap());
    let bytes = std::fs::read(&path).unwrap();
    assert!(bytes.starts_with(&repaired[..repaired.len() - 9]));
    let report = verify(&bytes[..]).unwrap();
    assert_eq!((report.lines, report.torn), (2, 1));
}

#[test]
fn a_missing_end_of_line_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let whole = two_lines(&path);
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    drop(FileSink::open(&path, "b").unwrap());
    assert_eq!(std::fs::read(&path).unwrap(), whole);
}

#[test]
fn a_file_that_was_changed_or_is_no_trail_is_not_continued() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let mut changed = two_lines(&path);
    let at = changed.len() - 300;
    changed[at] ^= 1;
    for content in [changed, b"hello\n".to_vec(), b"hello".to_vec()] {
        std::fs::write(&path, &content).unwrap();
        let error = FileSink::open(&path, "b").unwrap_err();
        assert!(
            matches!(error.source, AppendError::Tail(TailError::Damaged(_))),
            "{error}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }
    std::os::unix::fs::symlink("/dev/null", dir.path().join("link")).unwrap();
    assert!(FileSink::open(&dir.path().join("link"), "b").is_err());
    assert!(FileSink::open(Path::new("/dev/null"), "b").is_err());
}

#[test]
fn cutting_the_file_under_its_writer_stays_visible() {
    for (cut, mid_line) in [(true, false), (true, true)] {
        assert!(cut);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut sink = FileSink::open(&path, "b").unwrap();
        sink.append(&samples::all()[..2]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let first = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
        let keep = first + if mid_line { 40 } else { 0 };
        std::fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(keep as u64)
            .unwrap();
        sink.append(&samples::all()[..1]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert!(verify(&bytes[..]).is_err());
        let alert = lines(&bytes)
            .into_iter()
            .find(|l| l["kind"] == "alert")
            .unwrap();
        assert_eq!(alert["reason"], "trail-shrunk");
    }
}

#[test]
fn lines_are_synced_when_they_have_waited() {
    let mut trail = Trail::new(
        Small {
            room: 1 << 20,
            ..Small::default()
        },
        "b",
    );
    trail.append(&samples::all()[..1]).unwrap();
    assert!(trail.unsynced_since.is_some());
    trail.unsynced_since = Instant::now().checked_sub(SYNC_INTERVAL);
    trail.sync_if_due().unwrap();
    assert!(trail.unsynced_since.is_none());
}

#[test]
fn garbage_after_the_trail_is_not_taken_for_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    two_lines(&path);
    let mut file = std::fs::File::options().append(true).open(&path).unwrap();
    file.write_all(&[0; 70_000]).unwrap(); // what a power failure leaves
    drop(FileSink::open(&path, "b").unwrap());
    let report = verify(&std::fs::read(&path).unwrap()[..]).unwrap();
    assert_eq!((report.lines, report.torn), (3, 1));
}
