//! The binary is replaced while requests flow: none is refused, none is cut, and a replacement that
//! fails changes nothing.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::future::join_all;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::process::{Place, Process, chat, client, until, upstream};

/// Asks on kept connections, streams and whole answers in turn, until it is told to stop; what went
/// wrong.
async fn load(place: &Place, (over, done): (&AtomicBool, &AtomicUsize)) -> Vec<String> {
    let asking = (0..8).map(|_| async {
        let (client, mut failed) = (client(), Vec::new());
        let mut stream = false;
        while !over.load(Ordering::SeqCst) {
            stream = !stream;
            let answered = async {
                let asked = place.ask(&client, &chat("hi", stream)).await?;
                let status = asked.status;
                let text = asked.whole().await?;
                let whole = if stream { text.ends_with("data: [DONE]\n\n") } else { text.ends_with('}') };
                if status == 200 && whole { Ok(()) } else { Err(format!("{status}: {text}")) }
            };
            failed.extend(answered.await.err());
            done.fetch_add(1, Ordering::SeqCst);
        }
        failed
    });
    join_all(asking).await.concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replacements_under_load_refuse_and_cut_nothing() {
    let upstream = upstream(Arc::default()).await;
    let place = Place::with(&upstream, "[capture]\nfile = \"capture.jsonl\"\nmax_bytes = \"64KiB\"\nkeep = 1000\n");
    let path = place.path("handover");
    let args = ["--handover", path.to_str().unwrap(), "--drain", "600"];
    let mut process = place.start(&args).await;
    let (over, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let more = |count: usize| {
        let wanted = done.load(Ordering::SeqCst) + count;
        let done = &done;
        async move { until("more answers", || async { done.load(Ordering::SeqCst) >= wanted }).await }
    };
    let replace = async {
        more(50).await;
        for _ in 0..3 {
            let new = Process::spawn(place.command(&args), place.folder.path());
            assert_eq!(process.ends().await, Some(0), "{}", process.log());
            process = new;
            more(50).await;
        }
        over.store(true, Ordering::SeqCst);
    };
    let (failed, ()) = tokio::join!(load(&place, (&over, &done)), replace);
    assert_eq!(failed, [""; 0], "{}", process.log());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(place.probe("/readyz").await.0, 200);
    process.signal("TERM").await;
    assert_eq!(process.ends().await, Some(0));
    // Every answer has its line, whoever wrote it and wherever it was moved.
    let files = std::fs::read_dir(place.folder.path()).unwrap().flatten();
    let logs = files.filter(|file| file.file_name().to_string_lossy().starts_with("capture.jsonl"));
    let texts: Vec<String> = logs.map(|file| std::fs::read_to_string(file.path()).unwrap()).collect();
    let lines: usize = texts.iter().map(|text| text.lines().count()).sum();
    assert!(texts.len() > 1 && texts.iter().all(|text| text.ends_with("}\n")), "{}", texts.len());
    assert_eq!(lines, done.load(Ordering::SeqCst));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_that_fails_changes_nothing() {
    let upstream = upstream(Arc::default()).await;
    let place = Place::with(&upstream, "");
    let path = place.path("handover");
    let args = ["--handover", path.to_str().unwrap()];
    let mut process = place.start(&args).await;
    let well = || async {
        let asked = place.ask(&client(), &chat("hi", true)).await.unwrap();
        assert!(asked.whole().await.unwrap().contains("[DONE]"));
        assert_eq!(place.probe("/readyz").await.0, 200);
    };
    // One that cannot be built.
    let good = std::fs::read_to_string(place.path("weir.toml")).unwrap();
    std::fs::create_dir(place.path("folder")).unwrap();
    for broken in ["[capture]\nfile = \"folder\"\n", "nothing = 1\n"] {
        place.write("weir.toml", &format!("{broken}{good}"));
        let mut new = Process::spawn(place.command(&args), place.folder.path());
        assert_eq!(new.ends().await, Some(1), "{}", new.log());
        well().await;
    }
    place.write("weir.toml", &good);
    // One that dies between the sockets and its word, or makes no sense.
    for words in ["{\"take\":1}\n", "{\"take\":1}\n\"leaving\"\n", "{\"take\":99}\n", "nonsense\n", ""] {
        let mut stream = BufReader::new(UnixStream::connect(&path).await.unwrap());
        stream.write_all(words.as_bytes()).await.unwrap();
        if words.starts_with("{\"take\"") {
            let mut said = String::new();
            stream.read_line(&mut said).await.unwrap();
            assert_eq!(said.contains("sockets"), words.contains(":1}"), "{said}");
        }
        drop(stream);
        well().await;
    }
    let mut new = Process::spawn(place.command(&args), place.folder.path());
    assert_eq!(process.ends().await, Some(0), "{}", process.log());
    well().await;
    // Whoever is gone leaves its socket behind, and nobody minds.
    new.signal("KILL").await;
    assert_eq!(new.ends().await, None);
    let _last = place.start(&args).await;
    well().await;
}
