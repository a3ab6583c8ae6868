//! Every way in which files are saved, on a real file system, and what must not count.

use std::os::unix::fs::symlink;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::timeout;

use super::super::{Cause, Options, read};
use super::*;

const UPSTREAM: &str =
    "[[upstream]]\nname = \"up\"\nendpoints = [\"http://127.0.0.1:9/v1\"]\nmodels = [\"m\", \"n\"]\n";
const VIRTUAL: &str = "[[virtual]]\nname = \"auto\"\npolicy = \"p.toml\"\n";

fn policy(model: &str) -> String {
    format!("name = \"p\"\n[[rule]]\nname = \"r\"\nthen = {{ serve = \"up/{model}\" }}\n")
}

/// Nothing is told by looking, and a change at once.
fn hurried() -> Pace {
    Pace { quiet: Duration::from_millis(20), poll: Duration::from_secs(3600), apart: Duration::ZERO, ..PACE }
}

/// A configuration in a folder, and what watches it.
struct Kept {
    folder: TempDir,
    control: Arc<Control>,
    watch: Watch,
}

impl Kept {
    async fn of(top: &str) -> Kept {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("weir.toml"), format!("{top}{UPSTREAM}{VIRTUAL}")).unwrap();
        fs::write(folder.path().join("p.toml"), policy("m")).unwrap();
        Kept::open(folder, "weir.toml").await
    }

    async fn open(folder: TempDir, config: &str) -> Kept {
        let options = Options { config: Some(folder.path().join(config)), ..Options::default() };
        let checked = read(&options).unwrap();
        let control = Arc::new(Control::open(options, checked).await.unwrap());
        let watch = Watch::open(&control);
        let pace = hurried();
        let mut kept = Kept { folder, control, watch: Watch { pace, ..watch } };
        kept.rests().await;
        kept
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits for a change and applies it; what files it was in.
    async fn applies(&mut self) -> Vec<String> {
        timeout(Duration::from_secs(60), self.watch.changed()).await.expect("no change was seen");
        let reloaded = self.control.reload(Cause::Files).await.unwrap();
        assert!(reloaded.is_new);
        let name = |file: &str| file.rsplit('/').next().unwrap().to_owned();
        reloaded.changed.iter().map(|changed| name(&changed.file)).collect()
    }

    /// Nothing counts as changed, for a good while.
    async fn rests(&mut self) {
        let seen = timeout(Duration::from_millis(150), self.watch.changed()).await;
        assert!(seen.is_err(), "a change was seen");
    }
}

#[tokio::test]
async fn a_file_that_is_written_in_place_is_applied() {
    let mut kept = Kept::of("").await;
    fs::write(kept.path("p.toml"), policy("n")).unwrap();
    assert_eq!(kept.applies().await, ["p.toml"]);
    kept.rests().await;
}

#[tokio::test]
async fn a_file_that_is_renamed_over_another_is_applied_each_time() {
    let mut kept = Kept::of("").await;
    for model in ["n", "m", "n"] {
        fs::write(kept.path(".p.toml.swp"), policy(model)).unwrap();
        fs::rename(kept.path(".p.toml.swp"), kept.path("p.toml")).unwrap();
        assert_eq!(kept.applies().await, ["p.toml"]);
    }
    kept.rests().await;
}

#[tokio::test]
async fn a_file_that_is_moved_away_and_made_anew_is_applied() {
    let mut kept = Kept::of("").await;
    fs::rename(kept.path("p.toml"), kept.path("p.toml~")).unwrap();
    fs::write(kept.path("p.toml"), policy("n")).unwrap();
    assert_eq!(kept.applies().await, ["p.toml"]);
    fs::remove_file(kept.path("p.toml")).unwrap();
    fs::write(kept.path("p.toml"), policy("m")).unwrap();
    assert_eq!(kept.applies().await, ["p.toml"]);
}

#[tokio::test]
async fn a_file_that_is_touched_or_saved_unchanged_is_no_change() {
    let mut kept = Kept::of("").await;
    fs::write(kept.path("p.toml"), policy("m")).unwrap();
    kept.rests().await;
    fs::write(kept.path("new"), policy("m")).unwrap();
    fs::rename(kept.path("new"), kept.path("p.toml")).unwrap();
    kept.rests().await;
    fs::write(kept.path("another"), "x").unwrap();
    kept.rests().await;
    fs::write(kept.path("p.toml"), policy("n")).unwrap();
    assert_eq!(kept.applies().await, ["p.toml"]);
}

/// As Kubernetes mounts a ConfigMap: every file is a link through `..data`, which is swapped.
#[tokio::test]
async fn a_folder_of_links_that_is_swapped_is_applied_as_one_change() {
    let folder = tempfile::tempdir().unwrap();
    let version = |number: usize, model: &str, top: &str| {
        let own = folder.path().join(format!("..version_{number}"));
        fs::create_dir(&own).unwrap();
        fs::write(own.join("weir.toml"), format!("{top}{UPSTREAM}{VIRTUAL}")).unwrap();
        fs::write(own.join("p.toml"), policy(model)).unwrap();
        symlink(format!("..version_{number}"), folder.path().join("..data_tmp")).unwrap();
        fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).unwrap();
    };
    version(1, "m", "");
    for name in ["weir.toml", "p.toml"] {
        symlink(format!("..data/{name}"), folder.path().join(name)).unwrap();
    }
    let root = folder.path().to_owned();
    let swapped = folder.path().join("..version_1");
    let versions: Vec<(usize, &str, &str)> = vec![(2, "n", "max_body = \"1MiB\"\n"), (3, "m", "max_body = \"2MiB\"\n")];
    let options = Options { config: Some(root.join("weir.toml")), ..Options::default() };
    let control = Arc::new(Control::open(options.clone(), read(&options).unwrap()).await.unwrap());
    let watch = Watch::open(&control);
    let pace = hurried();
    let own = tempfile::tempdir().unwrap();
    let mut kept = Kept { folder: own, control, watch: Watch { pace, ..watch } };
    kept.rests().await;
    for (number, model, top) in versions {
        version(number, model, top);
        assert_eq!(kept.applies().await, ["p.toml", "weir.toml"], "{number}");
    }
    fs::remove_dir_all(swapped).unwrap();
    kept.rests().await;
}

#[tokio::test]
async fn what_a_refused_reload_named_is_watched_and_mending_it_applies() {
    let mut kept = Kept::of("").await;
    let config = format!("prices = \"later/prices.toml\"\n{UPSTREAM}{VIRTUAL}");
    fs::write(kept.path("weir.toml"), config).unwrap();
    timeout(Duration::from_secs(60), kept.watch.changed()).await.unwrap();
    assert!(kept.control.reload(Cause::Files).await.is_err());
    kept.rests().await;
    fs::create_dir(kept.path("later")).unwrap();
    kept.rests().await;
    let price = "[[price]]\nmodel = \"up/m\"\ninput = 1\noutput = 1\n";
    fs::write(kept.path("later/prices.toml"), price).unwrap();
    // The folder was not there to be watched: it is looked for.
    kept.watch.pace.poll = Duration::from_millis(20);
    assert_eq!(kept.applies().await, ["prices.toml", "weir.toml"]);
}

#[tokio::test]
async fn after_a_roll_back_the_disk_waits_for_its_next_change() {
    let mut kept = Kept::of("").await;
    fs::write(kept.path("p.toml"), policy("n")).unwrap();
    kept.applies().await;
    let rolled = kept.control.roll_back(1, "somebody".to_owned()).await.unwrap();
    assert_eq!((rolled.generation, kept.control.differs_from_disk()), (3, true));
    kept.rests().await;
    fs::write(kept.path("weir.toml"), format!("max_body = \"1MiB\"\n{UPSTREAM}{VIRTUAL}")).unwrap();
    assert_eq!(kept.applies().await, ["p.toml", "weir.toml"]);
    assert!(!kept.control.differs_from_disk());
}

#[tokio::test]
async fn nothing_is_applied_by_itself_where_the_configuration_says_so() {
    let mut kept = Kept::of("watch = false\n").await;
    fs::write(kept.path("p.toml"), policy("n")).unwrap();
    kept.rests().await;
    fs::write(kept.path("weir.toml"), format!("{UPSTREAM}{VIRTUAL}")).unwrap();
    assert_eq!(kept.control.reload(Cause::Signal).await.unwrap().generation, 2);
    fs::write(kept.path("p.toml"), policy("m")).unwrap();
    assert_eq!(kept.applies().await, ["p.toml"]);
}

#[tokio::test]
async fn where_the_file_system_tells_nothing_files_are_looked_at() {
    let mut kept = Kept::of("").await;
    kept.watch.armed.as_mut().unwrap()._watcher = None;
    kept.watch.pace.poll = Duration::from_millis(20);
    fs::write(kept.path("p.toml"), policy("n")).unwrap();
    assert_eq!(kept.applies().await, ["p.toml"]);
}

#[tokio::test]
async fn a_file_that_never_rests_is_applied_all_the_same() {
    let mut kept = Kept::of("").await;
    kept.watch.pace = Pace { quiet: Duration::from_secs(3600), most: Duration::from_millis(50), ..kept.watch.pace };
    fs::write(kept.path("p.toml"), policy("n")).unwrap();
    assert_eq!(kept.applies().await, ["p.toml"]);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_refused_once_and_mending_it_applies() {
    let mut kept = Kept::of("").await;
    fs::write(kept.path("key"), "k".repeat(40)).unwrap();
    let keyed = format!("admin_token = {{ file = \"key\" }}\n{UPSTREAM}{VIRTUAL}");
    fs::write(kept.path("weir.toml"), keyed).unwrap();
    kept.applies().await;
    for (name, mended) in [("p.toml", policy("n")), ("key", "l".repeat(40))] {
        fs::write(kept.path(name), [0xff]).unwrap();
        timeout(Duration::from_secs(60), kept.watch.changed()).await.expect("no change was seen");
        assert!(kept.control.reload(Cause::Files).await.is_err(), "{name}");
        kept.rests().await;
        fs::write(kept.path(name), mended).unwrap();
        assert_eq!(kept.applies().await, [name]);
    }
}

/// As where a check ends in a panic: what the disk held when it was last read stays what it was.
#[tokio::test(start_paused = true)]
async fn a_change_that_nothing_comes_of_is_told_again_but_never_twice_in_a_second() {
    let mut kept = Kept::of("").await;
    kept.watch.pace = PACE;
    fs::write(kept.path("p.toml"), policy("n")).unwrap();
    kept.watch.changed().await;
    for _ in 0..3 {
        let disk = kept.control.disk.borrow().clone();
        kept.control.disk.send_replace(disk);
        let told = Instant::now();
        kept.watch.changed().await;
        assert!(told.elapsed() >= Duration::from_secs(1), "{:?}", told.elapsed());
    }
}
