//! Which rows a score is fitted on, and which are kept for its certificate.
//!
//! Promises: the side depends on the text alone, today and in every later version, so that a row
//! asked twice, or one that differs in case and white space only, never stands on both sides.
//! Paraphrases are not found: give them one id and split by that. Called by the offline tools.

/// A side of the split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// For choosing and fitting.
    Fit,
    /// For the certificate, and nothing before it.
    Certify,
}

impl Split {
    /// The side of a text: about this share of all texts is for the fit.
    pub fn of(text: &str, fit_share: f64) -> Split {
        let place = hash(text) as f64 / u64::MAX as f64;
        if place < fit_share { Split::Fit } else { Split::Certify }
    }
}

/// FNV-1a of the words in lower case, mixed once more (the last step of MurmurHash3), since the
/// high bits decide.
fn hash(text: &str) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for word in text.split_whitespace() {
        for byte in word.to_lowercase().bytes().chain([b' ']) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}
