//! What `weir serve` does without a configuration: the obvious.
//!
//! The best model of the catalogue found on disk; with `OPENAI_API_KEY`, also an upstream
//! `openai` at `OPENAI_BASE_URL`, and `auto` cascades from the one to the other. Prices are those
//! of `config/prices.toml`, which is part of the binary.

use super::catalogue;
use super::check::{CheckedUpstream, Checker};
use super::read::{self, RawKey};
use super::values::{add_price, parse_endpoint};
use crate::error::Problem;
use crate::local::ModelConfig;
use crate::request::ModelId;
use crate::upstream;

const OPENAI_BASE_URL: &str = "https://api.openai.com/v1";
const OPENAI_MODEL: &str = "gpt-4.1-mini";
const PRICES: &str = include_str!("../../config/prices.toml");

/// Fills in the built-in configuration.
pub(super) fn fill(checker: &mut Checker<'_>) {
    let env = &checker.options.env;
    let place = "built-in configuration";
    if checker.options.models.is_empty()
        && let Some((name, file)) = catalogue::best_on_disk(env)
    {
        checker.add_model(ModelConfig::new(ModelId::new(format!("local/{name}")), file), place);
    }
    if env.get("OPENAI_API_KEY").is_some() {
        openai(checker);
    }
    prices(checker);
    let nothing =
        checker.checked.models.is_empty() && checker.checked.upstreams.is_empty() && checker.options.models.is_empty();
    if nothing {
        let folder = catalogue::folder(env);
        let message = format!(
            "no model found in {}: run `make models` to fetch one, or name a GGUF with --model FILE, or set OPENAI_API_KEY",
            folder.display()
        );
        checker.problems.push(Problem { place: place.to_owned(), message });
    }
}

fn prices(checker: &mut Checker<'_>) {
    match read::parse_prices("config/prices.toml", PRICES) {
        Ok(found) => {
            let table = &mut checker.checked.prices;
            checker.problems.extend(found.into_iter().filter_map(|price| add_price(table, price).err()));
        }
        Err(problems) => checker.problems.extend(problems),
    }
}

fn openai(checker: &mut Checker<'_>) {
    let env = &checker.options.env;
    let url = env.get("OPENAI_BASE_URL").unwrap_or_else(|| OPENAI_BASE_URL.to_owned());
    let endpoint = match parse_endpoint(&url) {
        Ok(endpoint) => endpoint,
        Err(message) => return checker.problems.push(Problem { place: "OPENAI_BASE_URL".to_owned(), message }),
    };
    let named = env.get("OPENAI_MODEL");
    let key = RawKey { env: Some("OPENAI_API_KEY".to_owned()), file: None, client: None };
    let Ok(api_key) = checker.api_key("openai", Some(&key)) else { return };
    checker.checked.upstreams.push(CheckedUpstream {
        config: upstream::Config { api_key, ..upstream::Config::new("openai", vec![endpoint]) },
        discover: named.is_none().then(|| OPENAI_MODEL.to_owned()),
        listed: named.into_iter().collect(),
        any: true,
    });
}
