//! Which models stay in memory: pure, tables in, decisions out; no clock, no llama.cpp.
//!
//! Promises (each a property test): what is decided to fit never takes the total above the limit;
//! a pinned model, one with requests in flight and one that is being loaded are never given up; idle ones
//! go in the order of their last use, no more of them than needed. Weights that several models share
//! count once and leave with the last of them. Called by `shelf`.

use std::collections::BTreeMap;

/// Weights by what tells them apart, and their bytes.
pub(super) type Weighed = (u64, u64);

/// A model that is in memory, or for which room is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holding {
    /// Its weights, shared by all that name the same.
    pub(super) weights: Weighed,
    /// Bytes that are its own.
    pub(super) own: u64,
    /// Whether it stays whatever comes.
    pub(super) pinned: bool,
    /// Whether it may not go now: it has requests in flight.
    pub(super) busy: bool,
    /// Whether it is on its way out: its memory will be free soon.
    pub(super) leaving: bool,
    /// Whether its memory is not taken yet, or not all of it.
    pub(super) loading: bool,
    /// When it was used last: smaller is longer ago.
    pub(super) used: u64,
}

/// What another model wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) weights: Weighed,
    pub(super) own: u64,
}

/// What bounds everything together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Bounds {
    /// The budget of the configuration.
    pub(super) budget: Option<u64>,
    /// What the system still gives, beside what is loaded.
    pub(super) available: Option<u64>,
}

/// What to do about a model that wants room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// There is room.
    Fits,
    /// There will be, once these (places in the table) are unloaded.
    Unload(Vec<usize>),
    /// There will be when models that answer now are idle, or those on their way out are gone.
    Wait,
    /// There cannot be: `left` bytes are all that pinned models leave of the limit.
    Never { left: u64, limit: u64 },
}

/// Bytes of all of these, shared weights once.
pub(super) fn total<'a>(holdings: impl IntoIterator<Item = &'a Holding>) -> u64 {
    let mut weights = BTreeMap::new();
    let mut sum: u64 = 0;
    for holding in holdings {
        weights.insert(holding.weights.0, holding.weights.1);
        sum = sum.saturating_add(holding.own);
    }
    weights.into_values().fold(sum, u64::saturating_add)
}

/// What may be in memory at once: the budget, or what is loaded and what the system still gives, if
/// that is less.
pub(super) fn limit(holdings: &[Holding], bounds: Bounds) -> u64 {
    let loaded = total(holdings.iter().filter(|holding| !holding.loading));
    let system = bounds.available.map(|available| loaded.saturating_add(available));
    bounds.budget.into_iter().chain(system).min().unwrap_or(u64::MAX)
}

/// Decides about a model that wants room beside these.
pub(super) fn decide(wanted: Wanted, holdings: &[Holding], bounds: Bounds) -> Decision {
    let limit = limit(holdings, bounds);
    let wanted = Holding {
        weights: wanted.weights,
        own: wanted.own,
        pinned: true,
        busy: false,
        leaving: false,
        loading: true,
        used: u64::MAX,
    };
    let with = |stays: &dyn Fn(usize) -> bool| {
        let staying = holdings.iter().enumerate().filter(|(place, _)| stays(*place)).map(|(_, holding)| holding);
        total(staying.chain([&wanted]))
    };
    let mut idle: Vec<usize> = (0..holdings.len()).filter(|&place| is_idle(&holdings[place])).collect();
    idle.sort_by_key(|&place| (holdings[place].used, place));
    for count in 0..=idle.len() {
        let chosen = &idle[..count];
        if with(&|place| !holdings[place].leaving && !chosen.contains(&place)) <= limit {
            return match count {
                0 if with(&|_| true) <= limit => Decision::Fits,
                0 => Decision::Wait,
                _ => Decision::Unload(chosen.to_vec()),
            };
        }
    }
    let stays = |holding: &Holding| holding.pinned && !holding.leaving;
    if with(&|place| stays(&holdings[place])) <= limit {
        return Decision::Wait;
    }
    let pinned = total(holdings.iter().filter(|holding| stays(holding)));
    Decision::Never { left: limit.saturating_sub(pinned), limit }
}

fn is_idle(holding: &Holding) -> bool {
    !(holding.pinned || holding.busy || holding.leaving || holding.loading)
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn holding(weights: Weighed, own: u64, used: u64) -> Holding {
        Holding { weights, own, pinned: false, busy: false, leaving: false, loading: false, used }
    }

    fn within(budget: u64) -> Bounds {
        Bounds { budget: Some(budget), available: None }
    }

    const WANTED: Wanted = Wanted { weights: (9, 40), own: 10 };

    #[test]
    fn the_least_recently_used_go_first_and_no_more_than_needed() {
        let held = [holding((1, 30), 0, 5), holding((2, 30), 0, 3), holding((3, 30), 0, 4)];
        assert_eq!(decide(WANTED, &held, within(140)), Decision::Fits);
        assert_eq!(decide(WANTED, &held, within(110)), Decision::Unload(vec![1]));
        assert_eq!(decide(WANTED, &held, within(109)), Decision::Unload(vec![1, 2]));
        assert_eq!(decide(WANTED, &held, within(50)), Decision::Unload(vec![1, 2, 0]));
        assert_eq!(decide(WANTED, &held, within(49)), Decision::Never { left: 49, limit: 49 });
    }

    #[test]
    fn a_busy_model_is_waited_for_and_a_pinned_one_is_not() {
        let busy = [Holding { busy: true, ..holding((1, 30), 0, 1) }];
        assert_eq!(decide(WANTED, &busy, within(60)), Decision::Wait);
        let pinned = [Holding { pinned: true, ..holding((1, 30), 0, 1) }];
        assert_eq!(decide(WANTED, &pinned, within(60)), Decision::Never { left: 30, limit: 60 });
    }

    #[test]
    fn shared_weights_count_once_and_leave_with_the_last() {
        let held = [holding((9, 40), 10, 1), holding((9, 40), 10, 2)];
        assert_eq!(total(&held), 60);
        assert_eq!(decide(WANTED, &held, within(70)), Decision::Fits);
        assert_eq!(decide(WANTED, &held, within(60)), Decision::Unload(vec![0]));
    }

    #[test]
    fn without_a_budget_the_system_bounds_and_what_is_loading_has_not_taken_its_part_yet() {
        let bounds = Bounds { budget: None, available: Some(60) };
        let loaded = [holding((1, 30), 0, 1)];
        assert_eq!(decide(WANTED, &loaded, bounds), Decision::Fits);
        let loading = [Holding { loading: true, ..loaded[0] }];
        assert_eq!(decide(WANTED, &loading, bounds), Decision::Wait);
        assert_eq!(decide(WANTED, &loading, Bounds::default()), Decision::Fits);
    }

    /// Any table of a few models, any bounds.
    fn any(random: &mut SmallRng) -> (Vec<Holding>, Wanted, Bounds) {
        let sizes = [10, 20, 40, 80];
        let held = (0..random.random_range(0..7))
            .map(|_| {
                let number = random.random_range(0..4_usize);
                Holding {
                    weights: (number as u64, sizes[number]),
                    own: random.random_range(0..30),
                    pinned: random.random_bool(0.2),
                    busy: random.random_bool(0.2),
                    leaving: random.random_bool(0.1),
                    loading: random.random_bool(0.1),
                    used: random.random_range(0..100),
                }
            })
            .collect();
        let number = random.random_range(0..4_usize);
        let wanted = Wanted { weights: (number as u64, sizes[number]), own: random.random_range(0..30) };
        let mut bound = || random.random_bool(0.7).then(|| random.random_range(0..250));
        (held, wanted, Bounds { budget: bound(), available: bound() })
    }

    #[test]
    fn never_above_the_limit_never_the_pinned_or_busy_and_always_the_oldest_first() {
        let random = &mut SmallRng::seed_from_u64(5);
        for _ in 0..20_000 {
            let (held, wanted, bounds) = any(random);
            let decision = decide(wanted, &held, bounds);
            let (leaving, others_gone) = match &decision {
                Decision::Fits => (Vec::new(), false),
                Decision::Unload(leaving) => (leaving.clone(), true),
                Decision::Wait | Decision::Never { .. } => continue,
            };
            let new = Holding { loading: true, ..holding(wanted.weights, wanted.own, 0) };
            let stays =
                |place: &usize, leaving: &[usize]| !(leaving.contains(place) || others_gone && held[*place].leaving);
            let staying = |leaving: &[usize]| -> Vec<Holding> {
                (0..held.len()).filter(|place| stays(place, leaving)).map(|place| held[place]).chain([new]).collect()
            };
            let after = staying(&leaving);
            assert!(total(&after) <= limit(&held, bounds), "{held:?} {wanted:?} {bounds:?}");
            assert!(leaving.iter().all(|&place| is_idle(&held[place])), "{held:?} {leaving:?}");
            let newest = leaving.iter().map(|&place| held[place].used).max();
            let stayed = |place: &usize| is_idle(&held[*place]) && !leaving.contains(place);
            let oldest_left = (0..held.len()).filter(stayed).map(|place| held[place].used).min();
            assert!(newest.zip(oldest_left).is_none_or(|(gone, left)| gone <= left), "{held:?} {leaving:?}");
            let fewer = leaving.split_last().map(|(_, rest)| total(&staying(rest)));
            assert!(fewer.is_none_or(|fewer| fewer > limit(&held, bounds)), "one less would have done");
        }
    }

    #[test]
    fn what_can_never_fit_is_not_waited_for_and_what_can_is_not_refused() {
        let random = &mut SmallRng::seed_from_u64(6);
        for _ in 0..20_000 {
            let (held, wanted, bounds) = any(random);
            let stays = |holding: &Holding| holding.pinned && !holding.leaving;
            let pinned: Vec<Holding> = held.iter().copied().filter(stays).collect();
            let alone = total(&[&pinned[..], &[holding(wanted.weights, wanted.own, 0)]].concat());
            let can = alone <= limit(&held, bounds);
            assert_eq!(can, !matches!(decide(wanted, &held, bounds), Decision::Never { .. }), "{held:?} {bounds:?}");
        }
    }
}
