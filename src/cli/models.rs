//! `weir models add | list | inspect | remove`: the folder of models on this machine; and the models of
//! a Weir that runs ([`running`]).
//!
//! The folder is `$WEIR_MODELS`, else `models` in the cache folder; what a configuration names as
//! `hf:ORG/REPO:FILE` or by a name of the catalogue is looked up there. Hides the hub's endpoints
//! (`hub`), the resumable download (`download`) and what is measured (`inspect`). Called by `main`.

mod bar;
mod download;
mod hub;
mod inspect;
mod running;
mod shelf;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::control::{self, Entry, Environment};
use crate::local::Header;
use bar::Bar;
use download::{Download, Wanted};
use hub::Hub;

/// Flags of `weir models`.
#[derive(Debug, Args)]
pub struct Models {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Download hf:ORG/REPO:FILE or a name of the catalogue, or take a GGUF file of this machine in.
    ///
    /// HF_ENDPOINT names another hub, HF_TOKEN a token for gated files; HTTPS_PROXY and NO_PROXY count.
    /// A download that was interrupted goes on where it stopped.
    Add {
        /// hf:ORG/REPO:FILE, a name of the catalogue, or a file.
        what: String,
        /// Copy a file of this machine instead of linking to it.
        #[arg(long)]
        copy: bool,
    },
    /// List the models in the folder.
    List {
        /// Also tell what a running Weir serves: the address of its admin port.
        #[arg(long, value_name = "URL")]
        admin: Option<String>,
    },
    /// Tell what a model is and what it needs.
    Inspect {
        /// hf:ORG/REPO:FILE, a name of the catalogue, or a file.
        what: String,
        /// Answers at once, for the memory it needs.
        #[arg(long, default_value_t = 4)]
        slots: u32,
        /// Tokens per slot [default: what it was trained for, at most 8192].
        #[arg(long)]
        context: Option<u32>,
        /// Load it and measure tokens per second here.
        #[arg(long)]
        bench: bool,
    },
    /// Delete a model from the folder.
    Remove {
        /// hf:ORG/REPO:FILE, a name of the catalogue, or a file in the folder.
        what: String,
    },
    #[command(flatten)]
    Served(running::Served),
}

impl Models {
    /// Does it; an error is one sentence.
    pub fn run(&self) -> Result<(), String> {
        let env = Environment::default();
        match &self.action {
            Action::Add { what, copy } => add(what, *copy, &env),
            Action::List { admin } => shelf::list(&env, admin.as_deref()),
            Action::Inspect { what, slots, context, bench } => {
                inspect::run(&control::model_file(what, Path::new(""), &env)?, (*slots, *context), *bench)
            }
            Action::Remove { what } => shelf::remove(what, &env),
            Action::Served(served) => served.run(),
        }
    }
}

#[expect(clippy::print_stdout, reason = "the command's output")]
fn add(what: &str, copy: bool, env: &Environment) -> Result<(), String> {
    let file = if what.starts_with("hf:") {
        let (repo, name) = what.trim_start_matches("hf:").split_once(':').unwrap_or_default();
        let target = control::hub_file(what, env)?;
        fetch(Wanted { repo, file: name, sha256: None, target: &target }, env)?;
        target
    } else if let Some(entry) = control::entries().into_iter().find(|entry| entry.name == what) {
        add_known(&entry, env)?
    } else {
        shelf::take_in(Path::new(what), copy, env)?
    };
    let header = Header::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    println!("{}: {} {}, {}", file.display(), header.architecture(), header.quantisation(), bar::size(header.bytes));
    Ok(())
}

fn add_known(entry: &Entry, env: &Environment) -> Result<PathBuf, String> {
    let target = control::folder(env).join(&entry.file);
    let Some(hub) = &entry.hub else {
        let way_out = format!("python3 models/fetch.py {}", entry.name);
        return if target.is_file() {
            Ok(target)
        } else {
            Err(format!("{} is on no hub; get it with: {way_out}", entry.name))
        };
    };
    let wanted = Wanted { repo: &hub.repo, file: &hub.file, sha256: Some(&entry.sha256), target: &target };
    fetch(wanted, env)?;
    Ok(target)
}

fn fetch(wanted: Wanted<'_>, env: &Environment) -> Result<(), String> {
    if wanted.target.is_file() {
        return Ok(());
    }
    let folder = wanted.target.parent().unwrap_or(Path::new(""));
    fs::create_dir_all(folder).map_err(|error| format!("cannot make the folder {}: {error}", folder.display()))?;
    let hub = Hub::new(env.get("HF_ENDPOINT").as_deref(), env.get("HF_TOKEN"));
    let mut bar = Bar::new(wanted.file);
    let download = Download { hub: &hub, free: &free_bytes };
    let done = download.run(&wanted, &mut |have, of| bar.show(have, of));
    bar.end();
    done
}

/// What the file system of a folder can still take.
fn free_bytes(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}
