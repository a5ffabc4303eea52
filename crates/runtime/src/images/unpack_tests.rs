//! What archives may try, and what they get.

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sys::fs::Root;
use tar::EntryType;

use super::unpack::{Limits, Unpacked, unpack, unpack_within};

/// A directory for the layer, with something beside it that must not be touched.
struct Place {
    _temporary: tempfile::TempDir,
    layer: PathBuf,
    beside: PathBuf,
}

fn place() -> Place {
    let temporary = tempfile::tempdir().unwrap();
    let (layer, beside) = (temporary.path().join("layer"), temporary.path().join("beside"));
    fs::create_dir(&layer).unwrap();
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("secret"), "untouched").unwrap();
    Place { _temporary: temporary, layer, beside }
}

impl Place {
    fn is_untouched(&self) {
        let names: Vec<_> =
            fs::read_dir(&self.beside).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"]);
        assert_eq!(fs::read_to_string(self.beside.join("secret")).unwrap(), "untouched");
        let around = fs::read_dir(self.layer.parent().unwrap()).unwrap().count();
        assert_eq!(around, 2, "something was made beside the layer");
    }
}

/// An entry whose path and target are written as they are, whatever they are.
fn entry(kind: EntryType, path: &str, target: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o4755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000);
    header.set_size(content.len() as u64);
    let raw = header.as_old_mut();
    raw.name[..path.len()].copy_from_slice(path.as_bytes());
    raw.linkname[..target.len()].copy_from_slice(target.as_bytes());
    if matches!(kind, EntryType::Char | EntryType::Block) {
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
    }
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(path: &str, content: &str) -> Vec<u8> {
    entry(EntryType::Regular, path, "", content.as_bytes())
}

fn link(path: &str, target: &str) -> Vec<u8> {
    entry(EntryType::Symlink, path, target, &[])
}

fn hard(path: &str, target: &str) -> Vec<u8> {
    entry(EntryType::Link, path, target, &[])
}

fn dir(path: &str) -> Vec<u8> {
    entry(EntryType::Directory, path, "", &[])
}

/// The next entry's path and link target, as extended headers tell them.
fn extended(path: &str, target: &str) -> Vec<u8> {
    let record = |name: &str, value: &str| {
        let rest = format!(" {name}={value}\n");
        // The length counts its own digits.
        let digits = |length: usize| length.to_string().len();
        let length = rest.len() + digits(rest.len() + digits(rest.len()));
        format!("{length}{rest}")
    };
    let records = [record("path", path), record("linkpath", target)].concat();
    entry(EntryType::XHeader, "pax", "", records.as_bytes())
}

/// The next entry's path, as GNU's tar writes long ones.
fn long_name(path: &str) -> Vec<u8> {
    entry(EntryType::GNULongName, "././@LongLink", "", format!("{path}\0").as_bytes())
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut all = entries.concat();
    all.extend([0; 1024]);
    all
}

fn open(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

fn take(place: &Place, entries: &[Vec<u8>]) -> std::io::Result<Unpacked> {
    unpack(open(&archive(entries)), &place.layer, &[])
}

#[test]
fn nothing_gets_out_of_a_layer() {
    let p = place();
    let outside = p.beside.display().to_string();
    let up = "../../../../../../..".to_owned() + &outside;
    for entries in [
        vec![file("../beside/new", "x")],
        vec![file(&format!("{outside}/new"), "x")],
        vec![link("out", &outside), file("out/new", "x")],
        vec![link("out", &up), file("out/new", "x")],
        vec![link("out", "../beside"), file("out/secret", "x")],
        vec![link("a", "b"), link("b", &outside), dir("a"), file("a/new", "x")],
        vec![link("f", &format!("{outside}/secret")), file("f", "x")],
        vec![hard("h", &format!("{outside}/secret")), file("h", "x")],
        vec![hard("h", "../beside/secret"), file("h", "x")],
        vec![link("out", &outside), hard("h", "out/secret")],
        vec![link("out", &outside), file("out/.wh.secret", "")],
        vec![link("out", &outside), file("out/.wh..wh..opq", "")],
        vec![link("out", &outside), dir("out"), file("out/new", "x")],
        vec![file(".wh...", "")],
        vec![file(".wh.", "")],
        vec![link("out", &outside), entry(EntryType::Fifo, "out/fifo", "", &[])],
        vec![extended("../beside/new", ""), file("x", "x")],
        vec![extended(&format!("{outside}/new"), ""), file("x", "x")],
        vec![extended("h", &format!("{outside}/secret")), hard("x", "y"), file("h", "x")],
        vec![extended("h", "../beside/secret"), hard("x", "y"), file("h", "x")],
        vec![long_name(&format!("{}beside/new", "../".repeat(100))), file("x", "x")],
        vec![long_name(&format!("{outside}/new")), file("x", "x")],
        vec![link("a", "."), link("a/b", "../beside"), file("a/b/new", "x")],
        vec![link("out", "/proc/self/root/tmp"), file("out/new", "x")],
        vec![link("out", &format!("/proc/self/cwd{up}")), file("out/new", "x")],
        vec![link("out", &outside), entry(EntryType::Char, "out/null", "", &[])],
        vec![link("out", &outside), link("out/link", "x")],
        vec![link("out", &outside), hard("out/hard", "out/secret")],
        vec![link("etc", &outside), file("etc/.wh..wh..opq", ""), file("etc/.wh.secret", "")],
        vec![file(".wh.../beside", "")],
        vec![file(".wh..wh.secret", "")],
    ] {
        // Refused or kept inside: either is fine.
        let _ = take(&p, &entries);
        p.is_untouched();
        fs::remove_dir_all(&p.layer).unwrap();
        fs::create_dir(&p.layer).unwrap();
    }
}

#[test]
fn links_are_made_as_they_are_and_later_entries_replace_earlier_ones() {
    let p = place();
    take(
        &p,
        &[
            dir("./"),
            dir("bin/"),
            file("bin/sh", "one"),
            file("bin/sh", "two"),
            hard("bin/ash", "bin/sh"),
            link("etc", "/usr/etc"),
            link("abs", "/bin/sh"),
            dir("was-dir"),
            file("was-dir/inner", "x"),
            file("was-dir", "now a file"),
            file("implied/parents/file", "x"),
        ],
    )
    .unwrap();
    let read = |path: &str| fs::read_to_string(p.layer.join(path)).unwrap();
    assert_eq!((read("bin/sh"), read("bin/ash")), ("two".into(), "two".into()));
    assert_eq!(fs::read_link(p.layer.join("etc")).unwrap(), Path::new("/usr/etc"));
    assert_eq!(fs::read_link(p.layer.join("abs")).unwrap(), Path::new("/bin/sh"));
    assert_eq!(read("was-dir"), "now a file");
    assert_eq!(read("implied/parents/file"), "x");
    let meta = fs::metadata(p.layer.join("bin/sh")).unwrap();
    assert_eq!(
        (meta.permissions().mode() & 0o7777, meta.mtime(), meta.nlink()),
        (0o4755, 1_000_000, 2)
    );
    assert_eq!(fs::metadata(p.layer.join("bin")).unwrap().mtime(), 1_000_000);
}

#[test]
fn whiteouts_are_what_an_overlay_understands_and_devices_are_left_out() {
    let p = place();
    take(
        &p,
        &[
            file("etc/.wh.gone", ""),
            dir("opaque"),
            file("opaque/.wh..wh..opq", ""),
            file("etc/.wh..wh.plnk", ""),
            entry(EntryType::Char, "dev/null", "", &[]),
            entry(EntryType::Block, "dev/disk", "", &[]),
            entry(EntryType::Fifo, "fifo", "", &[]),
        ],
    )
    .unwrap();
    let gone = fs::symlink_metadata(p.layer.join("etc/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let mut value = [0; 8];
    let n = rustix::fs::getxattr(p.layer.join("opaque"), "trusted.overlay.opaque", &mut value[..]);
    assert_eq!(&value[..n.unwrap()], b"y");
    assert_eq!(fs::read_dir(p.layer.join("etc")).unwrap().count(), 1);
    assert!(!p.layer.join("dev/null").exists() && !p.layer.join("dev/disk").exists());
    assert!(fs::metadata(p.layer.join("fifo")).unwrap().file_type().is_fifo());
}

#[test]
fn directories_taken_for_granted_look_as_in_the_layer_below() {
    let p = place();
    let below = tempfile::tempdir().unwrap();
    fs::create_dir_all(below.path().join("srv/data")).unwrap();
    fs::set_permissions(below.path().join("srv/data"), fs::Permissions::from_mode(0o1777)).unwrap();
    let lower = [Root::open(below.path()).unwrap()];
    unpack(open(&archive(&[file("srv/data/x", "x")])), &p.layer, &lower).unwrap();
    let mode = fs::metadata(p.layer.join("srv/data")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o1777);
}

#[test]
fn compressed_layers_have_the_digest_of_what_they_unpack_to() {
    let plain = archive(&[file("a", &"x".repeat(100_000))]);
    let gz = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&plain).unwrap();
        encoder.finish().unwrap()
    };
    let zst = zstd::encode_all(plain.as_slice(), 1).unwrap();
    let digest = super::store::digest_of(&plain);
    for bytes in [&plain, &gz, &zst] {
        let p = place();
        let got = unpack(open(bytes), &p.layer, &[]).unwrap();
        assert_eq!(got, Unpacked { diff_id: digest.clone(), bytes: 100_000 });
    }
    let p = place();
    unpack(open(&gz[..gz.len() / 2]), &p.layer, &[]).unwrap_err();
}

#[test]
fn headers_that_do_not_end_are_not_read_to_their_end() {
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(16 << 30);
        header.set_cksum();
        let mut bytes = open(header.as_bytes());
        // A hole: nothing of it is on the disk.
        bytes.set_len(16 << 30).unwrap();
        bytes.rewind().unwrap();
        let p = place();
        let error = unpack(bytes, &p.layer, &[]).unwrap_err().to_string();
        assert!(error.contains("headers of an entry have more than"), "{kind:?}: {error}");
        p.is_untouched();
    }
}

#[test]
fn sizes_that_are_not_there_are_errors() {
    for size in [1, 1 << 40, u64::from(u32::MAX) << 8] {
        let mut header = tar::Header::new_gnu();
        header.set_path("file").unwrap();
        header.set_size(size);
        header.set_cksum();
        let p = place();
        unpack(open(header.as_bytes()), &p.layer, &[]).unwrap_err();
        p.is_untouched();
    }
    // The content of a device, which nobody wants, is not taken for headers.
    let p = place();
    let content = vec![b'x'; 5 << 20];
    take(&p, &[entry(EntryType::Char, "dev/null", "", &content), file("after", "x")]).unwrap();
    assert_eq!(fs::read_to_string(p.layer.join("after")).unwrap(), "x");
}

fn gzip(bytes: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    bytes.for_each(|piece| encoder.write_all(&piece).unwrap());
    encoder.finish().unwrap()
}

#[test]
fn few_bytes_do_not_become_too_many() {
    let small = Limits {
        file_bytes: 8 << 20,
        archive_bytes: 16 << 20,
        entries: 100,
        name_bytes: 4_000,
        free_bytes: 0,
    };
    let check = |what: &str, limits: Limits, bytes: &[u8], expected: &str| {
        let p = place();
        let error = unpack_within(&limits, open(bytes), &p.layer, &[]).unwrap_err();
        assert!(error.to_string().contains(expected), "{what}: {error}");
        p.is_untouched();
    };
    let megabyte = || vec![0; 1 << 20];
    let zeros = |count| std::iter::repeat_with(megabyte).take(count);
    let header = |kind, size| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_path("big").unwrap();
        header.set_mode(0o644);
        header.set_size(size);
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    let with = |kind, size, count| gzip(std::iter::once(header(kind, size)).chain(zeros(count)));

    let bomb = with(EntryType::Regular, 9 << 20, 10);
    assert!(bomb.len() < 100_000);
    check("a file", small, &bomb, "big: the layer is larger than 8388608 bytes");
    let decompressed = "the layer has more than 16777216 bytes when it is decompressed";
    // What is not written counts all the same.
    check("a device", small, &with(EntryType::Char, 1 << 40, 20), decompressed);
    check("the end", small, &gzip(zeros(20)), decompressed);
    let sizes: Vec<Vec<u8>> = (0..20).map(|_| gzip(zeros(1))).collect();
    check("many members", small, &sizes.concat(), decompressed);
    let zst = zstd::encode_all(zeros(20).collect::<Vec<_>>().concat().as_slice(), 1).unwrap();
    check("zstd", small, &zst, decompressed);

    let files: Vec<Vec<u8>> = (0..101).map(|n| file(&format!("f{n}"), "")).collect();
    check("entries", small, &archive(&files), "the layer has more than 100 entries");
    let dirs: Vec<Vec<u8>> = (0..80).map(|n| dir(&format!("d{n:090}"))).collect();
    check("directories", small, &archive(&dirs), "too many directories with too long names");

    let full = Limits { free_bytes: u64::MAX, ..small };
    check("a full disk", full, &archive(&[file("f", "x")]), "have to stay free");
}

#[test]
fn holes_of_a_sparse_file_count_as_its_bytes() {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_path("sparse").unwrap();
    header.set_mode(0o644);
    header.set_size(0);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.set_real_size(1 << 40);
    // One piece of nothing at the end: all before it is a hole.
    gnu.sparse[0].set_offset(1 << 40);
    gnu.sparse[0].set_length(0);
    header.set_cksum();
    let p = place();
    let limits = Limits { file_bytes: 8 << 20, ..Limits::STANDARD };
    let limits = Limits { free_bytes: 0, ..limits };
    let archive = archive(&[header.as_bytes().to_vec()]);
    let error = unpack_within(&limits, open(&archive), &p.layer, &[]).unwrap_err().to_string();
    assert!(error.contains("the layer is larger than 8388608 bytes"), "{error}");
}
