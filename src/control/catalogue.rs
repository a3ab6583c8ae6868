//! The catalogue of known models, and the cache folder they lie in.
//!
//! `models/catalogue.toml` is part of the binary; the files are fetched by `make models`. Called
//! by `check` to find a file by name, and by `weir serve` without arguments to find the best one.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Checked, Environment, Hashes};

const CATALOGUE: &str = include_str!("../../models/catalogue.toml");

/// What Weir has to know about a model of the catalogue.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) file: String,
    sha256: String,
    /// The lowest rank on disk is taken when nothing is configured; none: never.
    pub(super) rank: Option<u32>,
}

#[derive(Deserialize)]
struct Catalogue {
    model: Vec<Entry>,
}

/// The models of the catalogue.
pub(super) fn entries() -> Vec<Entry> {
    toml::from_str::<Catalogue>(CATALOGUE).map(|catalogue| catalogue.model).unwrap_or_default()
}

/// `$WEIR_MODELS`, else `models` in the cache folder.
pub(super) fn folder(env: &Environment) -> PathBuf {
    env.get("WEIR_MODELS").map_or_else(|| cache(env).join("models"), PathBuf::from)
}

/// The SHA-256 of what answers as this model: of the file that it runs, where it runs here; else of
/// the file of the catalogue that bears its name; empty where neither is known. Blocks while a file
/// is read.
pub fn file_hash(model: &str, checked: Option<&Checked>, hashes: &Hashes) -> String {
    let here = checked.and_then(|checked| checked.models.iter().find(|one| one.id.as_str() == model));
    let hash = |file: &Path| hashes.sha256(file).ok();
    let bare = model.rsplit('/').next().unwrap_or(model);
    let catalogued = || entries().into_iter().find(|entry| entry.name == bare).map(|entry| entry.sha256);
    here.and_then(|one| hash(&one.file)).or_else(catalogued).unwrap_or_default()
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

/// The best model on disk: its name and file.
pub(super) fn best_on_disk(env: &Environment) -> Option<(String, PathBuf)> {
    let mut ranked: Vec<Entry> = entries().into_iter().filter(|entry| entry.rank.is_some()).collect();
    ranked.sort_by_key(|entry| entry.rank);
    let found = ranked.into_iter().map(|entry| (entry.name, folder(env).join(entry.file)));
    found.into_iter().find(|(_, file)| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::{Environment, best_on_disk, entries, file_of};

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
