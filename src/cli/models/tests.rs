//! Downloads from a hub of two origins on this machine: the hub itself, and where it keeps its bytes.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use ring::digest::{SHA256, digest};

use super::*;
use download::part_of;

const REPO: &str = "Org/Repo";
const FILE: &str = "m.gguf";
const TOKEN: &str = "hf_secret";

/// A request as it arrived, at the hub or at its store.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    store: bool,
    method: String,
    token: bool,
    from: u64,
}

/// What the hub does.
#[derive(Debug, Clone, Default)]
struct Site {
    bytes: Vec<u8>,
    /// Told instead of the true checksum.
    sha256: Option<String>,
    /// Only who has the token may read.
    gated: bool,
    /// Each answer breaks off after so many bytes.
    breaks_after: Option<usize>,
    /// Ranges are not known.
    whole: bool,
}

struct Fake {
    endpoint: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    folder: tempfile::TempDir,
}

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Fake {
    fn start(site: Site) -> Fake {
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (hub, store) = (listen(), listen());
        let endpoint = format!("http://{}", hub.local_addr().unwrap());
        let bytes_at = format!("http://{}/store/abc?signature=x", store.local_addr().unwrap());
        let seen = Arc::default();
        for (listener, is_store) in [(hub, false), (store, true)] {
            let (site, seen, bytes_at) = (site.clone(), Arc::clone(&seen), bytes_at.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    serve(stream, is_store, &site, (&seen, &bytes_at));
                }
            });
        }
        Fake { endpoint, seen, folder: tempfile::tempdir().unwrap() }
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join(FILE)
    }

    fn fetch(&self, token: Option<&str>, free: u64, sha256: Option<&str>) -> Result<(), String> {
        let hub = Hub::new(Some(&self.endpoint), token.map(str::to_owned));
        let target = self.target();
        let free = |_: &Path| Some(free);
        let download = Download { hub: &hub, free: &free };
        download.run(&Wanted { repo: REPO, file: FILE, sha256, target: &target }, &mut |have, of| assert!(have <= of))
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn reads(&self) -> Vec<u64> {
        self.seen().iter().filter(|seen| seen.store && seen.method == "GET").map(|seen| seen.from).collect()
    }
}

fn serve(mut stream: TcpStream, store: bool, site: &Site, (seen, bytes_at): (&Mutex<Vec<Seen>>, &str)) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let first = lines.next().unwrap_or_default();
    let head: Vec<String> = lines.take_while(|line| !line.is_empty()).map(|line| line.to_ascii_lowercase()).collect();
    let header = |name: &str| head.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let from = header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let method = first.split(' ').next().unwrap_or_default().to_owned();
    let token = header("authorization") == Some(&format!("bearer {TOKEN}"));
    seen.lock().unwrap().push(Seen { store, method: method.clone(), token, from: from.unwrap_or(0) });
    let told = site.sha256.clone().unwrap_or_else(|| sha256(&site.bytes));
    let length = site.bytes.len();
    let answer = match (store, first.contains(&format!(" /{REPO}/resolve/main/{FILE} "))) {
        (false, false) => "HTTP/1.1 404 Not Found\r\nx-error-message: Entry not found\r\n".to_owned(),
        (false, true) if site.gated && !token => "HTTP/1.1 401 Unauthorized\r\n".to_owned(),
        (false, true) => format!(
            "HTTP/1.1 302 Found\r\nlocation: {bytes_at}\r\nx-linked-size: {length}\r\nx-linked-etag: \"{told}\"\r\n"
        ),
        (true, _) => {
            let from = from.filter(|_| !site.whole);
            let body = &site.bytes[from.unwrap_or(0) as usize..];
            let status = if from.is_some() { "206 Partial Content" } else { "200 OK" };
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let sent = body.len().min(site.breaks_after.unwrap_or(usize::MAX));
            // The client may have had enough.
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..sent]));
            return;
        }
    };
    let _ = stream.write_all(format!("{answer}content-length: 0\r\nconnection: close\r\n\r\n").as_bytes());
}

fn bytes() -> Vec<u8> {
    (0..100_000_u32).map(|n| (n % 251) as u8).collect()
}

const PLENTY: u64 = 1 << 40;

#[test]
fn a_file_arrives_whole_checked_and_with_its_stamp_and_the_token_stays_with_the_hub() {
    let fake = Fake::start(Site { bytes: bytes(), gated: true, ..Site::default() });
    fake.fetch(Some(TOKEN), PLENTY, None).unwrap();
    assert_eq!(fs::read(fake.target()).unwrap(), bytes());
    let stamp = fs::read_to_string(fake.folder.path().join("m.gguf.ok")).unwrap();
    assert_eq!(stamp.trim(), sha256(&bytes()));
    let seen = fake.seen();
    assert!(seen.iter().all(|seen| seen.token != seen.store), "{seen:?}");
    assert_eq!(seen.iter().filter(|seen| seen.method == "HEAD").count(), 1, "the store is not asked for the size");
}

#[test]
fn a_connection_that_breaks_is_gone_on_from() {
    let fake = Fake::start(Site { bytes: bytes(), breaks_after: Some(40_000), ..Site::default() });
    fake.fetch(None, PLENTY, None).unwrap();
    assert_eq!(fs::read(fake.target()).unwrap(), bytes());
    assert_eq!(fake.reads(), [0, 40_000, 80_000]);
}

#[test]
fn what_an_earlier_run_left_is_used_and_a_hub_without_ranges_begins_anew() {
    for (whole, reads) in [(false, [60_000]), (true, [60_000])] {
        let fake = Fake::start(Site { bytes: bytes(), whole, ..Site::default() });
        let part = part_of(&fake.target(), Some(&sha256(&bytes())));
        fs::write(&part, &bytes()[..60_000]).unwrap();
        fake.fetch(None, PLENTY, None).unwrap();
        assert_eq!(fs::read(fake.target()).unwrap(), bytes(), "ranges: {}", !whole);
        assert_eq!(fake.reads(), reads);
        assert!(!part.exists());
    }
}

#[test]
fn a_connection_that_brings_nothing_is_given_up_and_what_is_there_is_kept() {
    let fake = Fake::start(Site { bytes: bytes(), breaks_after: Some(0), ..Site::default() });
    let part = part_of(&fake.target(), Some(&sha256(&bytes())));
    fs::write(&part, &bytes()[..60_000]).unwrap();
    let error = fake.fetch(None, PLENTY, None).unwrap_err();
    assert!(error.contains("60 kB of 100 kB are kept, run it again to go on"), "{error}");
    assert_eq!(fs::read(&part).unwrap().len(), 60_000);
}

#[test]
fn a_wrong_checksum_is_refused_and_nothing_is_kept() {
    let lied = Fake::start(Site { bytes: bytes(), sha256: Some("ab".repeat(32)), ..Site::default() });
    let other = Fake::start(Site { bytes: bytes(), ..Site::default() });
    for (fake, wanted) in [(lied, None), (other, Some("cd".repeat(32)))] {
        let error = fake.fetch(None, PLENTY, wanted.as_deref()).unwrap_err();
        assert!(error.contains("its SHA-256 is") && error.contains("nothing of it is kept"), "{error}");
        assert_eq!(fs::read_dir(fake.folder.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_gated_or_missing_file_is_told_with_the_way_out() {
    let fake = Fake::start(Site { bytes: bytes(), gated: true, ..Site::default() });
    let error = fake.fetch(None, PLENTY, None).unwrap_err();
    assert!(error.contains("Org/Repo is gated or private") && error.contains("set HF_TOKEN"), "{error}");
    let error = fake.fetch(Some("hf_other"), PLENTY, None).unwrap_err();
    assert!(error.contains("HF_TOKEN may not read Org/Repo") && !error.contains("hf_other"), "{error}");
    let hub = Hub::new(Some(&fake.endpoint), None);
    let error = hub.look(REPO, "other.gguf").unwrap_err();
    assert!(error.contains("no file other.gguf in Org/Repo") && error.contains("(Entry not found)"), "{error}");
}

#[test]
fn a_disk_without_room_is_told_before_anything_is_downloaded() {
    let fake = Fake::start(Site { bytes: bytes(), ..Site::default() });
    let error = fake.fetch(None, 1_000_000, None).unwrap_err();
    assert!(error.contains("100 kB are to be downloaded, 1 MB are free in"), "{error}");
    assert_eq!(fake.reads(), [0_u64; 0]);
}
