//! The price table and the arithmetic of cost. Pure.
//!
//! Hides which entry of the table a model falls under. Promises: the most exact name wins, a
//! local model costs nothing unless priced, and an unknown price stays unknown instead of
//! becoming 0. Built by `control` from the price file, read by the Meter.

use std::collections::BTreeMap;

use crate::request::{ModelId, Usage};

/// Prices of one model in USD per million tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Price {
    /// Prompt tokens.
    pub input: f64,
    /// Prompt tokens from a cache; `None` = as `input`.
    pub cached_input: Option<f64>,
    /// Generated tokens.
    pub output: f64,
}

impl Price {
    /// The price of what costs nothing.
    pub const FREE: Price = Price { input: 0.0, cached_input: None, output: 0.0 };

    /// What these tokens cost in USD: Σ tokens × price / 10⁶, cached ones at their own price.
    pub fn cost_usd(&self, usage: &Usage) -> f64 {
        let cached = usage.cached_tokens.min(usage.prompt_tokens);
        let fresh = usage.prompt_tokens - cached;
        let dollars_per_million = fresh as f64 * self.input
            + cached as f64 * self.cached_input.unwrap_or(self.input)
            + usage.completion_tokens as f64 * self.output;
        dollars_per_million / 1e6
    }
}

/// The price table; the most exact name wins (`openai/gpt-mini` before `openai/*`). Local models
/// cost nothing unless priced.
#[derive(Debug, Clone, Default)]
pub struct Prices {
    /// Name or pattern (`NAME/*`) → price.
    pub table: BTreeMap<String, Price>,
}

impl Prices {
    /// The price of a model; `None`: not in the table and not local.
    pub fn of(&self, model: &ModelId) -> Option<Price> {
        let name = model.as_str();
        if let Some(price) = self.table.get(name) {
            return Some(*price);
        }
        let pattern = |slash: usize| self.table.get(&format!("{}/*", &name[..slash])).copied();
        name.rmatch_indices('/')
            .find_map(|(slash, _)| pattern(slash))
            .or_else(|| model.is_local().then_some(Price::FREE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(input: f64) -> Price {
        Price { input, cached_input: None, output: 0.0 }
    }

    #[test]
    fn the_most_exact_name_wins() {
        let table = [("up/*", 1.0), ("up/a/*", 2.0), ("up/a/b", 3.0), ("local/paid", 4.0)];
        let prices = Prices { table: table.iter().map(|(name, input)| (name.to_string(), price(*input))).collect() };
        let cases = [
            ("up/a/b", Some(3.0)),
            ("up/a/c", Some(2.0)),
            ("up/a/b/c", Some(2.0)),
            ("up/x", Some(1.0)),
            ("upper/x", None),
            ("other/x", None),
            ("auto", None),
            ("local/paid", Some(4.0)),
            ("local/free", Some(0.0)),
        ];
        for (name, expected) in cases {
            assert_eq!(prices.of(&ModelId::new(name)).map(|price| price.input), expected, "{name}");
        }
    }

    #[test]
    fn cached_tokens_cost_their_own_price_where_there_is_one() {
        let usage = Usage { prompt_tokens: 1_000_000, cached_tokens: 400_000, completion_tokens: 500_000 };
        let with = Price { input: 2.0, cached_input: Some(0.5), output: 8.0 };
        assert_eq!(with.cost_usd(&usage), 1.2 + 0.2 + 4.0);
        assert_eq!(Price { cached_input: None, ..with }.cost_usd(&usage), 2.0 + 4.0);
        let absurd = Usage { prompt_tokens: 1_000_000, cached_tokens: 9_000_000, completion_tokens: 0 };
        assert_eq!(with.cost_usd(&absurd), 0.5);
    }
}
