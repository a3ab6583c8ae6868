//! Cheap guesses about a text: its language, its share of code, its number of tokens.
//!
//! No model and no dictionary: scripts, a few frequent words, the look of lines. Promises: linear
//! in the text, an honest `und` where it cannot tell. Called by `signals` on demand.

/// Characters looked at for the language.
const SAMPLE_CHARS: usize = 4096;

/// Frequent short words by language. A word may stand under several.
const FREQUENT: [(&str, &[&str]); 10] = [
    (
        "en",
        &[
            "the", "and", "is", "of", "to", "in", "that", "it", "for", "what", "how", "with", "are", "you", "this",
            "please", "write", "my", "can", "do",
        ],
    ),
    (
        "de",
        &[
            "der", "die", "das", "und", "ist", "nicht", "ein", "eine", "ich", "mit", "zu", "von", "den", "wie", "für",
            "auf", "bitte", "sie", "im", "was",
        ],
    ),
    (
        "fr",
        &[
            "le", "la", "les", "et", "est", "une", "un", "des", "que", "pour", "dans", "qui", "je", "vous", "du",
            "quelle", "quel", "sur", "pas", "avec",
        ],
    ),
    (
        "es",
        &[
            "el", "la", "los", "las", "y", "es", "una", "un", "que", "para", "en", "por", "con", "cuál", "qué", "cómo",
            "del", "no", "se", "su",
        ],
    ),
    (
        "it",
        &[
            "il", "la", "gli", "e", "è", "una", "un", "che", "per", "di", "non", "con", "come", "qual", "della", "del",
            "sono", "in", "mi", "quale",
        ],
    ),
    (
        "pt",
        &[
            "o", "a", "os", "as", "e", "é", "uma", "um", "que", "para", "em", "não", "com", "como", "qual", "da", "do",
            "você", "por", "se",
        ],
    ),
    (
        "nl",
        &[
            "de", "het", "een", "en", "is", "van", "niet", "dat", "ik", "wat", "voor", "met", "op", "hoe", "zijn",
            "te", "naar", "deze", "je", "aan",
        ],
    ),
    (
        "sv",
        &[
            "och", "är", "en", "ett", "det", "att", "som", "inte", "jag", "på", "för", "med", "vad", "hur", "av",
            "den", "till", "kan", "du", "om",
        ],
    ),
    (
        "pl",
        &[
            "i", "jest", "w", "na", "nie", "się", "to", "z", "do", "co", "jak", "że", "czy", "jaka", "dla", "od", "ja",
            "po", "ale", "proszę",
        ],
    ),
    (
        "tr",
        &[
            "ve", "bir", "bu", "ne", "için", "ile", "nedir", "mi", "mı", "nasıl", "da", "de", "çok", "ben", "var",
            "değil", "olan", "en", "gibi", "daha",
        ],
    ),
];

/// The ISO 639-1 code of the language the text seems to be in, or `und`.
pub(super) fn guess(text: &str) -> &'static str {
    let sample: String = text.chars().take(SAMPLE_CHARS).collect::<String>().to_lowercase();
    let letters = sample.chars().filter(|c| c.is_alphabetic()).count();
    by_script(&sample, letters).unwrap_or_else(|| by_words(&sample))
}

/// A script that only one language (of those told apart) is written in.
fn by_script(sample: &str, letters: usize) -> Option<&'static str> {
    let share = |from: char, to: char| {
        let found = sample.chars().filter(|c| (from..=to).contains(c)).count();
        letters > 0 && found * 10 >= letters * 3
    };
    let any = |wanted: &str| sample.chars().any(|c| wanted.contains(c));
    let kana = sample.chars().filter(|c| ('\u{3040}'..='\u{30ff}').contains(c)).count();
    let han = sample.chars().filter(|c| ('\u{4e00}'..='\u{9fff}').contains(c)).count();
    if kana > 0 && (kana + han) * 10 >= letters * 3 {
        return Some("ja");
    }
    let scripts = [
        ('\u{4e00}', '\u{9fff}', "zh"),
        ('\u{ac00}', '\u{d7a3}', "ko"),
        ('\u{0370}', '\u{03ff}', "el"),
        ('\u{0590}', '\u{05ff}', "he"),
        ('\u{0900}', '\u{097f}', "hi"),
        ('\u{0e00}', '\u{0e7f}', "th"),
    ];
    if let Some((_, _, language)) = scripts.into_iter().find(|(from, to, _)| share(*from, *to)) {
        return Some(language);
    }
    if share('\u{0400}', '\u{04ff}') {
        return Some(if any("іїєґ") { "uk" } else { "ru" });
    }
    share('\u{0600}', '\u{06ff}').then(|| if any("پچژگ") { "fa" } else { "ar" })
}

/// The language most of whose frequent words stand in the text: at least two, and more than of
/// any other.
fn by_words(sample: &str) -> &'static str {
    let mut hits = [0u32; FREQUENT.len()];
    for word in sample.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()) {
        for (hit, (_, words)) in hits.iter_mut().zip(FREQUENT) {
            *hit += u32::from(words.contains(&word));
        }
    }
    let best = hits.iter().copied().max().unwrap_or(0);
    let mut leaders = hits.iter().zip(FREQUENT).filter(|(hit, _)| **hit == best);
    match (leaders.next(), leaders.next()) {
        (Some((_, (language, _))), None) if best >= 2 => language,
        _ => "und",
    }
}

/// The share of the text's characters, blanks aside, that stand in lines of code: 0 … 1.
pub(super) fn code_share(text: &str) -> f64 {
    let (mut code, mut all) = (0usize, 0usize);
    let mut fenced = false;
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with("```") {
            fenced = !fenced;
            continue;
        }
        let size = line.chars().filter(|c| !c.is_whitespace()).count();
        all += size;
        if fenced || looks_like_code(line) {
            code += size;
        }
    }
    if all == 0 { 0.0 } else { code as f64 / all as f64 }
}

fn looks_like_code(line: &str) -> bool {
    const STARTS: [&str; 22] = [
        "def ",
        "class ",
        "import ",
        "from ",
        "#include",
        "fn ",
        "pub ",
        "let ",
        "const ",
        "var ",
        "func ",
        "function ",
        "public ",
        "private ",
        "static ",
        "package ",
        "using ",
        "if (",
        "for (",
        "while (",
        "SELECT ",
        "//",
    ];
    const MARKS: [&str; 10] = ["()", "=>", "->", "::", "==", "!=", "&&", "||", "+=", "</"];
    let ends = line.ends_with(['{', '}', ';']) || line.ends_with("):");
    let starts = STARTS.iter().any(|start| line.starts_with(start));
    let marks = MARKS.iter().filter(|mark| line.contains(**mark)).count();
    let signs = line.chars().filter(|c| "{}()[]=<>;_\"'`$#|&*+/\\".contains(*c)).count();
    let dense = signs * 5 >= line.chars().count().max(1);
    let prose = line.ends_with(['.', '?', '!']) && !dense;
    !prose && (ends || (starts && signs > 0) || marks > 0 && dense)
}

/// About how many tokens a text is: a quarter of its UTF-8 bytes, but one for each Chinese,
/// Japanese or Korean character (three bytes each).
pub(super) fn tokens(text: &str) -> i64 {
    let wide = if text.is_ascii() { 0 } else { text.chars().filter(|c| is_wide(*c)).count() };
    let narrow_bytes = text.len() - wide * '漢'.len_utf8();
    i64::try_from(narrow_bytes.div_ceil(4) + wide).unwrap_or(i64::MAX)
}

/// Kana, Han of the basic plane and its first extension, Hangul: all three bytes long.
fn is_wide(c: char) -> bool {
    matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_are_told_apart_by_script_and_by_frequent_words() {
        for (text, language) in [
            ("What is the capital of France?", "en"),
            ("Was ist die Hauptstadt von Frankreich?", "de"),
            ("Quelle est la capitale de la France et du Portugal ?", "fr"),
            ("¿Cuál es la capital de Francia y por qué?", "es"),
            ("Qual è la capitale della Francia e perché non è Roma?", "it"),
            ("Qual é a capital da França e por que você não sabe?", "pt"),
            ("Wat is de hoofdstad van Frankrijk en het eiland?", "nl"),
            ("Vad är det som inte är bra och hur gör jag?", "sv"),
            ("Co to jest i jak się nie mylić w Polsce?", "pl"),
            ("Bu nedir ve nasıl bir şey için?", "tr"),
            ("Какая столица Франции?", "ru"),
            ("Яка столиця Франції?", "uk"),
            ("法国的首都是什么？", "zh"),
            ("フランスの首都はどこですか？", "ja"),
            ("프랑스의 수도는 어디입니까?", "ko"),
            ("Ποια είναι η πρωτεύουσα;", "el"),
            ("ما هي عاصمة فرنسا؟", "ar"),
            ("מהי בירת צרפת?", "he"),
            ("फ्रांस की राजधानी क्या है?", "hi"),
        ] {
            assert_eq!(guess(text), language, "{text}");
        }
    }

    #[test]
    fn a_text_without_evidence_has_no_language() {
        for text in ["", "17 * 23 =", "Xylophon", "{\"a\": 1}", "la"] {
            assert_eq!(guess(text), "und", "{text}");
        }
    }

    #[test]
    fn prose_has_no_code_and_code_has_no_prose() {
        assert_eq!(code_share("Tell me (briefly) about Paris; it is big.\nThanks!"), 0.0);
        assert_eq!(code_share("fn main() {\n    let x = 1;\n}"), 1.0);
        assert_eq!(code_share("def f(x):\n    return g(x) == h()"), 1.0);
        assert_eq!(code_share(""), 0.0);
    }

    #[test]
    fn a_fence_makes_code_of_what_it_holds() {
        let share = code_share("Explain this.\n```\nabcdefghij\n```\n");
        assert!((share - 10.0 / 22.0).abs() < 1e-9, "{share}");
    }

    #[test]
    fn tokens_are_a_quarter_of_the_bytes_and_one_per_wide_character() {
        assert_eq!(tokens(""), 0);
        assert_eq!(tokens("four"), 1);
        assert_eq!(tokens("fours"), 2);
        assert_eq!(tokens("漢字かな한글"), 6);
        assert_eq!(tokens("abcd漢字"), 3);
    }
}
