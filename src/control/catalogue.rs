//! The catalogue of known models, and the cache folder they lie in.
//!
//! `models/catalogue.toml` is part of the binary; the files are fetched by `make models`. Called
//! by `check` to find a file by name, and by `weir serve` without arguments to find the best one.

use std::path::PathBuf;

use serde::Deserialize;

use super::{Checked, Environment, Hashes};

const CATALOGUE: &str = include_str!("../../models/catalogue.toml");

/// What Weir has to know about a model of the catalogue.
#[derive(Debug, Clone, Deserialize)]
pub struct Entry {
    /// What a configuration writes: `file = "NAME"`.
    pub name: String,
    /// Its name in the folder of models.
    pub file: String,
    /// One line for a person.
    pub description: String,
    /// Under what it may be used.
    pub licence: String,
    /// The size of the file.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal digits.
    pub sha256: String,
    /// The lowest rank on disk is taken when nothing is configured; none: never.
    pub rank: Option<u32>,
    /// Where a hub has it; none: it is made by `make models` only.
    pub hub: Option<Hub>,
}

/// A file of a model hub.
#[derive(Debug, Clone, Deserialize)]
pub struct Hub {
    /// `ORG/REPO`.
    pub repo: String,
    /// The file's path in it.
    pub file: String,
}

#[derive(Deserialize)]
struct Catalogue {
    model: Vec<Entry>,
}

/// The models of the catalogue.
pub fn entries() -> Vec<Entry> {
    toml::from_str::<Catalogue>(CATALOGUE).map(|catalogue| catalogue.model).unwrap_or_default()
}

/// The folder of models: `$WEIR_MODELS`, else `models` in the cache folder.
pub fn folder(env: &Environment) -> PathBuf {
    env.get("WEIR_MODELS").map_or_else(|| cache(env).join("models"), PathBuf::from)
}

/// The SHA-256 of what answers as this model: of the files that it runs, where it runs here; else of
/// the file of the catalogue that bears its name; empty where neither is known. Blocks while a file
/// is read.
pub fn file_hash(model: &str, checked: Option<&Checked>, hashes: &Hashes) -> String {
    let here = checked.and_then(|checked| checked.models.iter().find(|one| one.id.as_str() == model));
    let bare = model.rsplit('/').next().unwrap_or(model);
    let catalogued = || entries().into_iter().find(|entry| entry.name == bare).map(|entry| entry.sha256);
    here.and_then(|one| hashes.of_model(one).ok()).or_else(catalogued).unwrap_or_default()
}

/// The cache folder: `$WEIR_CACHE`, `$XDG_CACHE_HOME/weir` or `~/.cache/weir`.
pub fn cache(env: &Environment) -> PathBuf {
    let cache = env
        .get("WEIR_CACHE")
        .map(PathBuf::from)
        .or_else(|| env.get("XDG_CACHE_HOME").map(|home| PathBuf::from(home).join("weir")));
    let home = || PathBuf::from(env.get("HOME").unwrap_or_else(|| ".".to_owned())).join(".cache").join("weir");
    cache.unwrap_or_else(home)
}

/// The file of a name of the catalogue, whether or not it is on disk.
pub(super) fn file_of(name: &str, env: &Environment) -> Option<PathBuf> {
    entries().into_iter().find(|entry| entry.name == name).map(|entry| folder(env).join(entry.file))
}

/// Where the file of `hf:ORG/REPO:FILE` lies in the folder of models, whether or not it is there.
///
/// # Errors
/// A text of another form, or one that would lie elsewhere.
pub fn hub_file(text: &str, env: &Environment) -> Result<PathBuf, String> {
    let want = || format!("\"{text}\": want hf:ORG/REPO:FILE");
    let (repo, file) = text.strip_prefix("hf:").and_then(|rest| rest.split_once(':')).ok_or_else(want)?;
    let is_plain = |part: &str| {
        let odd = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+'));
        !part.is_empty() && !part.starts_with('.') && !part.contains(odd)
    };
    let parts: Vec<&str> = repo.split('/').chain(file.split('/')).collect();
    if repo.split('/').count() != 2 || !parts.iter().all(|part| is_plain(part)) {
        return Err(want());
    }
    Ok(parts.into_iter().fold(folder(env), |path, part| path.join(part)))
}

/// The best model on disk: its name and file.
pub(super) fn best_on_disk(env: &Environment) -> Option<(String, PathBuf)> {
    let mut ranked: Vec<Entry> = entries().into_iter().filter(|entry| entry.rank.is_some()).collect();
    ranked.sort_by_key(|entry| entry.rank);
    let found = ranked.into_iter().map(|entry| (entry.name, folder(env).join(entry.file)));
    found.into_iter().find(|(_, file)| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::{Environment, best_on_disk, entries, file_of, hub_file};

    #[test]
    fn a_file_of_the_hub_has_a_place_of_its_own_within_the_folder() {
        let env = Environment::fixed([("WEIR_MODELS", "/m")]);
        let place = |text: &str| hub_file(text, &env).ok().map(|path| path.display().to_string());
        assert_eq!(place("hf:Org/Re-po.1:a/b.gguf").as_deref(), Some("/m/Org/Re-po.1/a/b.gguf"));
        let odd = ["Org/R:f", "hf:R:f", "hf:O/R", "hf:O/R:", "hf:O/../R:f", "hf:O/R:../f", "hf:O/R:/f", "hf:O/R:a b"];
        for text in odd {
            assert_eq!(place(text), None, "{text}");
        }
    }

    #[test]
    fn the_catalogue_is_readable_and_ranks_the_default_model_first() {
        let first = entries().into_iter().filter(|entry| entry.rank.is_some()).min_by_key(|entry| entry.rank);
        assert_eq!(first.map(|entry| entry.name).as_deref(), Some("qwen2.5-coder-0.5b-instruct"));
    }

    #[test]
    fn the_best_model_is_the_lowest_rank_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let env = Environment::fixed([("WEIR_MODELS", folder.path().to_str().unwrap())]);
        assert_eq!(best_on_disk(&env), None);
        let small = file_of("smollm2-135m-instruct", &env).unwrap();
        std::fs::write(&small, b"x").unwrap();
        assert_eq!(best_on_disk(&env), Some(("smollm2-135m-instruct".to_owned(), small)));
    }
}
