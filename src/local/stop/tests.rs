//! Tests of the file beside this one.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::{TextOut, overlap};

/// The whole text and whether a stop was met, for these pushes.
fn run(stops: &[&str], pushes: &[&[u8]]) -> (String, bool) {
    let mut out = TextOut::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
    let mut text = String::new();
    let mut stopped = false;
    for push in pushes {
        let emitted = out.push(push);
        assert!(!stopped || emitted.text.is_empty(), "text after the stop: {emitted:?}");
        text.push_str(&emitted.text);
        stopped = emitted.stopped;
    }
    text.push_str(&out.finish());
    (text, stopped)
}

#[test]
fn a_character_cut_between_pushes_comes_out_whole() {
    let mut out = TextOut::new(Vec::new());
    assert_eq!(out.push(b"na\xc3").text, "na");
    assert_eq!(out.push(b"\xafve \xf0\x9f").text, "ïve ");
    assert_eq!(out.push(b"\x98").text, "");
    assert_eq!(out.push(b"\x80!").text, "😀!");
    assert_eq!(out.finish(), "");
}

#[test]
fn an_unfinished_character_at_the_end_becomes_the_replacement_character() {
    let mut out = TextOut::new(Vec::new());
    assert_eq!(out.push(b"a\xe2\x82").text, "a");
    assert_eq!(out.finish(), "\u{fffd}");
}

#[test]
fn only_what_may_become_a_stop_is_held_back() {
    let mut out = TextOut::new(vec!["END".to_owned(), "\n\n".to_owned()]);
    assert_eq!(out.push(b"one\n").text, "one");
    assert_eq!(out.push(b"two E").text, "\ntwo ");
    assert_eq!(out.push(b"N").text, "");
    assert_eq!(out.push(b"ough").text, "ENough");
    assert_eq!(out.push(b" EN").text, " ");
    let last = out.push(b"D and more");
    assert_eq!((last.text.as_str(), last.stopped), ("", true));
    let after = out.push(b"never seen");
    assert_eq!((after.text.as_str(), after.stopped), ("", true));
    assert_eq!(out.finish(), "");
}

#[test]
fn stops_end_the_text_where_they_should() {
    let table: &[(&[&str], &str, &str, bool)] = &[
        (&["b"], "abc", "a", true),
        (&["abc"], "abc", "", true),
        (&["x"], "abc", "abc", false),
        (&["c", "b"], "abc", "a", true),
        // Complete first wins, though "abcd" began earlier.
        (&["abcd", "bc"], "abcd", "a", true),
        // Complete at once: the longest.
        (&["bc", "abc"], "abc", "", true),
        (&["aab"], "aaab", "a", true),
        (&["€"], "5€", "5", true),
        (&["", "z"], "xyz", "xy", true),
        (&["abc"], "xxab", "xxab", false),
    ];
    for (stops, text, wanted, stopped) in table {
        let whole = run(stops, &[text.as_bytes()]);
        assert_eq!(whole, ((*wanted).to_owned(), *stopped), "{stops:?} in {text:?}");
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(run(stops, &bytes), whole, "{stops:?} in {text:?}, byte by byte");
    }
}

#[test]
fn any_cutting_into_pushes_gives_the_same_text() {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
    let pieces: [&[u8]; 9] =
        [b"a", b"b", b"ab", "é".as_bytes(), "€".as_bytes(), "😀".as_bytes(), b"\xff", b"\xe2\x82", b"\x80"];
    let stops: [&[&str]; 6] = [&[], &["abab"], &["aab", "b€"], &["€€", "éb", "baa"], &["\u{fffd}a"], &["aba", "bab"]];
    for round in 0..3000 {
        let count = random.random_range(0..14);
        let stream: Vec<u8> = (0..count).flat_map(|_| pieces[random.random_range(0..pieces.len())]).copied().collect();
        let stops = stops[round % stops.len()];
        let whole = run(stops, &[&stream]);
        if stops.is_empty() {
            assert_eq!(whole.0, String::from_utf8_lossy(&stream));
        }
        let mut pushes = Vec::new();
        let mut rest = stream.as_slice();
        while !rest.is_empty() {
            let (push, after) = rest.split_at(random.random_range(0..=rest.len().min(4)));
            pushes.push(push);
            rest = after;
        }
        assert_eq!(run(stops, &pushes).0, whole.0, "{stops:?} in {stream:x?} cut as {pushes:x?}");
    }
}

#[test]
fn overlap_is_the_longest_beginning_at_the_end() {
    for (text, pattern, wanted) in [
        ("xaab", "aabc", 3),
        ("aaa", "aab", 2),
        ("abc", "abc", 0),
        ("", "a", 0),
        ("a", "", 0),
        ("5", "€", 0),
        ("b€", "€b", 3),
    ] {
        assert_eq!(overlap(text, pattern), wanted, "{text:?} {pattern:?}");
    }
}
