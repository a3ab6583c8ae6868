//! The framing holds for every way of cutting a stream into pieces.

use super::*;

const STREAMS: &[(&str, &[u8])] = &[
    ("lf", b"data: a\n\ndata: b\n\ndata: [DONE]\n\n"),
    ("crlf", b"data: a\r\n\r\ndata: b\r\n\r\n"),
    ("cr", b"data: a\r\rdata: b\r\r"),
    ("mixed", b"data: a\r\n\ndata: b\n\r\ndata: c\r\r\ndata: d\n\n"),
    ("comments", b": hello\n\n:\ndata: a\n: between\ndata: b\n\n"),
    (
        "fields",
        b"event: error\nid: 7\nretry: 10\ndata:x\n\nevent: other\ndata\ndata:  y\n\nevent: error\n\ndata: z\n\n",
    ),
    ("mark", b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: lost\n\n"),
    ("many lines", b"data: {\ndata:  \"a\": 1\ndata: }\n\n"),
    ("utf-8", "data: {\"x\":\"Wehr – 堰 🌊\"}\n\n".as_bytes()),
    ("unclosed", b"data: a\n\ndata: [DONE]"),
    ("unclosed line", b"data: a\n\ndata: b\n"),
];

fn read(pieces: &[&[u8]], limit: usize) -> (Vec<Event>, Option<TooLong>) {
    let mut decoder = Decoder::new(limit);
    let mut events = Vec::new();
    for piece in pieces {
        decoder.push(Bytes::copy_from_slice(piece));
        loop {
            match decoder.next() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            }
        }
    }
    match decoder.finish() {
        Ok(event) => events.extend(event),
        Err(error) => return (events, Some(error)),
    }
    (events, None)
}

fn texts(stream: &[u8]) -> Vec<(String, bool)> {
    let (events, failed) = read(&[stream], MAX_EVENT);
    assert_eq!(failed, None);
    events.iter().map(|event| (String::from_utf8(event.data.to_vec()).unwrap(), event.error)).collect()
}

fn stream(name: &str) -> &'static [u8] {
    STREAMS.iter().find(|(known, _)| *known == name).unwrap().1
}

#[test]
fn events_are_read_as_the_standard_says() {
    let plain = |list: &[&str]| list.iter().map(|text| ((*text).to_owned(), false)).collect::<Vec<_>>();
    assert_eq!(texts(stream("lf")), plain(&["a", "b", "[DONE]"]));
    assert_eq!(texts(stream("crlf")), plain(&["a", "b"]));
    assert_eq!(texts(stream("cr")), plain(&["a", "b"]));
    assert_eq!(texts(stream("mixed")), plain(&["a", "b", "c", "d"]));
    assert_eq!(texts(stream("comments")), plain(&["a\nb"]));
    assert_eq!(texts(stream("mark")), plain(&["a"]));
    assert_eq!(texts(stream("many lines")), plain(&["{\n \"a\": 1\n}"]));
    assert_eq!(texts(stream("unclosed")), plain(&["a", "[DONE]"]));
    assert_eq!(texts(stream("unclosed line")), plain(&["a", "b"]));
}

#[test]
fn only_the_name_error_is_kept_of_the_other_fields() {
    let expected = [("x", true), ("\n y", false), ("z", false)];
    assert_eq!(texts(stream("fields")), expected.map(|(text, error)| (text.to_owned(), error)));
}

#[test]
fn any_rechunking_gives_the_same_events() {
    for (name, bytes) in STREAMS {
        for limit in [MAX_EVENT, 12, 6, 3] {
            let whole = read(&[bytes], limit);
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(read(&single, limit), whole, "{name}, byte by byte, limit {limit}");
            for first in 0..=bytes.len() {
                for second in first..=bytes.len() {
                    let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                    assert_eq!(read(&pieces, limit), whole, "{name}, cut at {first} and {second}, limit {limit}");
                }
            }
        }
    }
}

#[test]
fn an_event_that_is_too_long_is_an_error_however_it_comes() {
    let long_line = [b"data: ".as_slice(), &[b'x'; 100], b"\n\n"].concat();
    let many_lines = b"data: 0123456789\n".repeat(10);
    let never_ends = vec![b'x'; 100];
    for bytes in [long_line, many_lines, never_ends] {
        let (events, failed) = read(&[&bytes], 64);
        assert!(events.is_empty());
        assert_eq!(failed, Some(TooLong { limit: 64 }));
    }
}

#[test]
fn an_event_in_one_piece_is_not_copied() {
    let piece = Bytes::from_static(b"data: abc\n\ndata: def\n\n");
    let mut decoder = Decoder::default();
    decoder.push(piece.clone());
    let first = decoder.next().unwrap().unwrap();
    let second = decoder.next().unwrap().unwrap();
    assert_eq!(first.data.as_ptr(), piece[6..].as_ptr());
    assert_eq!(second.data.as_ptr(), piece[17..].as_ptr());
}

#[test]
fn pushing_before_the_last_piece_is_read_loses_nothing() {
    let mut decoder = Decoder::default();
    decoder.push(Bytes::from_static(b"data: a\n\nda"));
    decoder.push(Bytes::from_static(b"ta: b\n\n"));
    assert_eq!(decoder.next().unwrap().unwrap().data, "a");
    assert_eq!(decoder.next().unwrap().unwrap().data, "b");
    assert_eq!(decoder.next(), Ok(None));
}

#[test]
fn what_is_rendered_is_read_back() {
    for data in ["", "x", "{\"a\":1}", "{\n\"a\":\n1}", " leading", "trailing\n"] {
        assert_eq!(texts(&render(data.as_bytes())), [(data.to_owned(), false)], "{data:?}");
    }
    assert_eq!(texts(&render(b"{\r\n}\r")), [("{\n}\n".to_owned(), false)]);
}

#[test]
fn a_comment_is_skipped_whatever_it_says() {
    let bytes = [render_comment("weir cost\ndata: forged"), render(b"x")].concat();
    assert_eq!(texts(&bytes), [("x".to_owned(), false)]);
}

#[test]
fn the_end_mark_is_known() {
    let (events, _) = read(&[DONE], MAX_EVENT);
    assert!(events[0].is_done());
    assert!(!Event { data: "{}".into(), error: false }.is_done());
}
