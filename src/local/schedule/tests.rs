//! Tables for the scheduler.

use super::*;

fn prefill(slot: usize, arrived: u64, left: usize) -> Prefill {
    Prefill { slot, arrived, left }
}

fn held(tokens: &[u32], free: bool, used: u64) -> Held<'_> {
    Held { tokens, free, used }
}

fn numbers(n: u32) -> Vec<u32> {
    (0..n).collect()
}

#[test]
fn a_chunk_is_measured_in_time() {
    let mut speed = Speed::new(256);
    assert_eq!(speed.chunk(0), 32, "before anything is known");
    for _ in 0..50 {
        speed.observe(100, Duration::from_millis(100));
    }
    assert_eq!(speed.chunk(0), 100, "1 ms a token: 100 tokens");
    assert_eq!(speed.chunk(20), 80, "decoding sequences take their part of the step");
    for _ in 0..50 {
        speed.observe(8, Duration::from_secs(1));
    }
    assert_eq!(speed.chunk(3), 8, "a slow model still gets on");
    assert_eq!(speed.chunk(0), 32);
    for _ in 0..50 {
        speed.observe(8, Duration::from_nanos(8));
    }
    assert_eq!(speed.chunk(6), 250, "never beyond the batch");
}

#[test]
fn single_tokens_say_nothing_about_prompts() {
    let mut speed = Speed::new(256);
    speed.observe(1, Duration::from_secs(9));
    assert_eq!(speed.chunk(0), 32);
}

#[test]
fn shares_of_a_chunk() {
    type Case<'a> = (&'a [Prefill], usize, &'a [(usize, usize)]);
    let table: [Case<'_>; 6] = [
        (&[], 40, &[]),
        (&[prefill(3, 1, 100)], 40, &[(3, 40)]),
        (&[prefill(3, 1, 7)], 40, &[(3, 7)]),
        (&[prefill(0, 1, 1000), prefill(1, 2, 12), prefill(2, 3, 90)], 40, &[(0, 10), (1, 12), (2, 18)]),
        (&[prefill(0, 2, 30), prefill(1, 1, 30)], 40, &[(1, 30), (0, 10)]),
        (&[prefill(0, 1, 50), prefill(1, 2, 60)], 1, &[(0, 1)]),
    ];
    for (prefills, chunk, expected) in table {
        assert_eq!(share(prefills, chunk), expected, "{prefills:?} in {chunk}");
    }
}

#[test]
fn no_share_exceeds_what_is_left_and_all_together_fit() {
    for chunk in 1..70 {
        let prefills = [prefill(0, 3, 5), prefill(1, 1, 33), prefill(2, 2, 1), prefill(3, 4, 200)];
        let shares = share(&prefills, chunk);
        assert_eq!(shares.iter().map(|s| s.1).sum::<usize>(), chunk.min(239));
        for (slot, tokens) in shares {
            assert!(tokens >= 1 && tokens <= prefills[slot].left);
        }
    }
}

#[test]
fn the_longest_prefix_wins() {
    let prompt = numbers(100);
    let (short, long) = (numbers(20), numbers(60));
    let slots = [held(&short, true, 1), held(&long, true, 2), held(&[], true, 0)];
    assert_eq!(place(&prompt, &slots, true), Some(Placement { slot: 1, from: None, reuse: 60 }));
}

#[test]
fn a_busy_slot_lends_a_copy_of_its_prefix() {
    let prompt = numbers(100);
    let slots = [held(&prompt, false, 5), held(&[], true, 1)];
    assert_eq!(place(&prompt, &slots, true), Some(Placement { slot: 1, from: Some(0), reuse: 99 }));
    assert_eq!(place(&prompt, &slots, false), Some(Placement { slot: 1, from: None, reuse: 0 }));
}

#[test]
fn a_long_cache_is_not_given_up_for_a_short_prefix() {
    let (prompt, mut long) = (numbers(30), numbers(20));
    long.extend(1000..1200);
    let slots = [held(&long, true, 9), held(&[], true, 1)];
    assert_eq!(place(&prompt, &slots, true), Some(Placement { slot: 1, from: Some(0), reuse: 20 }));
    assert_eq!(place(&prompt, &slots[..1], true), Some(Placement { slot: 0, from: None, reuse: 20 }));
}

#[test]
fn a_cache_that_cannot_be_cut_is_reused_whole_or_not_at_all() {
    let (prompt, whole, mut other) = (numbers(100), numbers(40), numbers(60));
    other.push(1000);
    let fresh = |slot| Some(Placement { slot, from: None, reuse: 0 });
    let slots = [held(&[], true, 0), held(&whole, true, 1), held(&other, true, 2)];
    assert_eq!(place(&prompt, &slots, false), Some(Placement { slot: 1, from: None, reuse: 40 }));
    assert_eq!(place(&prompt, &[held(&[], true, 0), held(&other, true, 2)], false), fresh(0), "it goes on differently");
    assert_eq!(place(&prompt, &[held(&[], true, 0), held(&prompt, true, 2)], false), fresh(0), "its last token stays");
    assert_eq!(place(&prompt, &[held(&[], true, 0), held(&whole, false, 2)], false), fresh(0), "it is busy");
}

#[test]
fn the_last_prompt_token_is_always_read_again() {
    let prompt = numbers(50);
    let slots = [held(&prompt, true, 1)];
    assert_eq!(place(&prompt, &slots, true).map(|p| p.reuse), Some(49));
}

#[test]
fn without_a_prefix_the_slot_unused_for_longest_is_taken() {
    let prompt = numbers(50);
    let slots = [held(&[7], true, 5), held(&[], false, 0), held(&[8], true, 3)];
    assert_eq!(place(&prompt, &slots, true), Some(Placement { slot: 2, from: None, reuse: 0 }));
    assert_eq!(place(&prompt, &[held(&[], false, 0)], true), None);
    assert_eq!(place(&[], &[held(&[], true, 0)], true).map(|p| p.reuse), Some(0));
}

#[test]
fn idle_caches_are_given_up_oldest_first() {
    let (a, b) = (numbers(60), numbers(50));
    let slots = [held(&a, true, 1), held(&b, true, 3), held(&a, false, 0), held(&b, true, 2)];
    assert_eq!(evict(&slots, 1000), Vec::<usize>::new());
    assert_eq!(evict(&slots, 50), [0]);
    assert_eq!(evict(&slots, 0), [3, 0], "the newest stays, however long it is");
    assert_eq!(evict(&[held(&[], true, 1)], 0), Vec::<usize>::new());
}

#[test]
fn many_choices_of_one_request_do_not_lock_others_out() {
    assert_eq!(next_turn([(1, 4), (2, 0), (3, 0)].into_iter()), Some(2));
    assert_eq!(next_turn([(1, 1), (2, 1)].into_iter()), Some(1));
    assert_eq!(next_turn(std::iter::empty()), None);
}
