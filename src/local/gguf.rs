//! The header of a GGUF file: its keys and the shapes of its tensors, read without llama.cpp.
//!
//! Promises: nothing of the weights is read or mapped; whatever the bytes are, the outcome is a header
//! or one sentence, in work and memory bounded by the file's size; long lists (a vocabulary) are
//! counted, not kept. Format: versions 2 and 3 of the GGUF specification of ggml. Called by `survey`,
//! `adapter` and `weir models`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

/// Keys and tensors of a header at most; more is damage.
const MOST_ENTRIES: u64 = 1 << 20;
/// Bytes of a text that is kept; chat templates have some ten thousand.
const LONGEST_TEXT: u64 = 16 << 20;
/// Numbers of a list that are kept; one per layer is the longest that is read.
const KEPT_NUMBERS: u64 = 4096;

/// Names of ggml's types, by number.
const KINDS: &[(u32, &str)] = &[
    (0, "F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (6, "Q5_0"),
    (7, "Q5_1"),
    (8, "Q8_0"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (12, "Q4_K"),
    (13, "Q5_K"),
    (14, "Q6_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (29, "IQ1_M"),
    (30, "BF16"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

/// What a file says of itself.
#[derive(Debug, Clone, Default)]
pub struct Header {
    /// The size of the whole file.
    pub bytes: u64,
    values: BTreeMap<String, Value>,
    tensors: BTreeMap<String, Tensor>,
}

/// A value of a key.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Number(f64),
    Flag(bool),
    Text(String),
    List { length: u64, numbers: Vec<f64> },
}

/// A tensor without its contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tensor {
    /// Its extent in each dimension.
    pub(super) shape: Vec<u64>,
    kind: u32,
}

impl Header {
    /// Reads a file's header; an error is one clause without the file's name.
    pub fn read(file: &Path) -> Result<Header, String> {
        let opened = File::open(file).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "no such file; `weir models add` or `make models` fetches models".to_owned(),
            _ => format!("cannot be read: {error}"),
        })?;
        let bytes = opened.metadata().map_err(|error| format!("cannot be read: {error}"))?.len();
        let mut reader = Reader { source: BufReader::with_capacity(1 << 18, opened), left: bytes };
        let mut magic = [0; 4];
        if reader.fill(&mut magic).is_err() || &magic != b"GGUF" {
            return Err("not a GGUF file".to_owned());
        }
        let (values, tensors) = reader.entries().map_err(|fault| match fault {
            Fault::Version(version) => format!("its GGUF version is {version}; 2 and 3 are known"),
            Fault::Damaged => "its GGUF header is damaged or cut off".to_owned(),
        })?;
        Ok(Header { bytes, values, tensors })
    }

    /// A text.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.values.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A number that is whole and not negative; of a list of numbers, its largest.
    pub fn number(&self, key: &str) -> Option<u64> {
        let whole = |number: f64| (number >= 0.0 && number.fract() == 0.0).then_some(number as u64);
        match self.values.get(key)? {
            Value::Number(number) => whole(*number),
            Value::List { numbers, .. } => numbers.iter().copied().filter_map(whole).max(),
            _ => None,
        }
    }

    /// A number that may have a fraction.
    pub fn fraction(&self, key: &str) -> Option<f64> {
        match self.values.get(key)? {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// A flag.
    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.values.get(key)? {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        }
    }

    /// How long a list is.
    pub fn length(&self, key: &str) -> Option<u64> {
        match self.values.get(key)? {
            Value::List { length, .. } => Some(*length),
            _ => None,
        }
    }

    /// One number for each of so many layers: a list's, or the same for all.
    pub(super) fn per_layer(&self, key: &str, layers: u64) -> Option<Vec<u64>> {
        let layers = layers.min(KEPT_NUMBERS) as usize;
        match self.values.get(key)? {
            Value::Number(number) => Some(vec![*number as u64; layers]),
            Value::List { numbers, .. } => Some(numbers.iter().take(layers).map(|number| *number as u64).collect()),
            _ => None,
        }
    }

    /// `general.architecture`, empty where the file names none.
    pub fn architecture(&self) -> &str {
        self.text("general.architecture").unwrap_or_default()
    }

    /// A number of the architecture's own keys, `ARCHITECTURE.key`.
    pub fn of_architecture(&self, key: &str) -> Option<u64> {
        self.number(&format!("{}.{key}", self.architecture()))
    }

    /// The tensor of this name.
    pub(super) fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// Every tensor, by name.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// How many parameters the tensors hold.
    pub fn parameters(&self) -> u64 {
        self.tensors.values().map(Tensor::elements).fold(0, u64::saturating_add)
    }

    /// The type that most parameters are stored in, such as `Q4_K`.
    pub fn quantisation(&self) -> String {
        let mut elements: BTreeMap<u32, u64> = BTreeMap::new();
        for tensor in self.tensors.values() {
            let sum = elements.entry(tensor.kind).or_default();
            *sum = sum.saturating_add(tensor.elements());
        }
        let Some((kind, _)) = elements.into_iter().max_by_key(|(_, sum)| *sum) else { return "none".to_owned() };
        KINDS.iter().find(|(number, _)| *number == kind).map_or(format!("type {kind}"), |(_, name)| (*name).to_owned())
    }
}

impl Tensor {
    fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |product: u64, extent| product.saturating_mul(*extent))
    }
}

/// Why a header cannot be read.
enum Fault {
    Version(u32),
    Damaged,
}

impl From<io::Error> for Fault {
    fn from(_: io::Error) -> Self {
        Fault::Damaged
    }
}

type Read1<T> = Result<T, Fault>;
type Entries = (BTreeMap<String, Value>, BTreeMap<String, Tensor>);

/// Reads forward, never beyond the file's end.
struct Reader {
    source: BufReader<File>,
    left: u64,
}

impl Reader {
    fn fill(&mut self, bytes: &mut [u8]) -> Read1<()> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or(Fault::Damaged)?;
        Ok(self.source.read_exact(bytes)?)
    }

    fn skip(&mut self, bytes: u64) -> Read1<()> {
        self.left = self.left.checked_sub(bytes).ok_or(Fault::Damaged)?;
        Ok(self.source.seek_relative(i64::try_from(bytes).map_err(|_| Fault::Damaged)?)?)
    }

    fn array<const N: usize>(&mut self) -> Read1<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Read1<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Read1<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn count(&mut self) -> Read1<u64> {
        let count = self.u64()?;
        if count <= MOST_ENTRIES { Ok(count) } else { Err(Fault::Damaged) }
    }

    fn text(&mut self) -> Read1<String> {
        let length = self.u64()?;
        if length > LONGEST_TEXT.min(self.left) {
            return Err(Fault::Damaged);
        }
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn entries(&mut self) -> Read1<Entries> {
        let version = self.u32()?;
        if !(2..=3).contains(&version) {
            return Err(Fault::Version(version));
        }
        let (tensors, keys) = (self.count()?, self.count()?);
        let mut values = BTreeMap::new();
        for _ in 0..keys {
            let key = self.text()?;
            let kind = self.u32()?;
            values.insert(key, self.value(kind)?);
        }
        let mut shapes = BTreeMap::new();
        for _ in 0..tensors {
            let (name, tensor) = self.tensor()?;
            shapes.insert(name, tensor);
        }
        Ok((values, shapes))
    }

    /// A value of a type by GGUF's number.
    fn value(&mut self, kind: u32) -> Read1<Value> {
        Ok(match kind {
            7 => Value::Flag(self.array::<1>()?[0] != 0),
            8 => Value::Text(self.text()?),
            9 => self.list()?,
            _ => Value::Number(self.scalar(kind)?),
        })
    }

    fn scalar(&mut self, kind: u32) -> Read1<f64> {
        Ok(match kind {
            0 | 7 => u8::from_le_bytes(self.array()?).into(),
            1 => i8::from_le_bytes(self.array()?).into(),
            2 => u16::from_le_bytes(self.array()?).into(),
            3 => i16::from_le_bytes(self.array()?).into(),
            4 => self.u32()?.into(),
            5 => i32::from_le_bytes(self.array()?).into(),
            6 => f32::from_le_bytes(self.array()?).into(),
            10 => self.u64()? as f64,
            11 => i64::from_le_bytes(self.array()?) as f64,
            12 => f64::from_le_bytes(self.array()?),
            _ => return Err(Fault::Damaged),
        })
    }

    fn list(&mut self) -> Read1<Value> {
        let (kind, length) = (self.u32()?, self.u64()?);
        let mut numbers = Vec::new();
        for at in 0..length {
            match kind {
                8 => {
                    let bytes = self.u64()?;
                    self.skip(bytes)?;
                }
                // Lists of lists are of no known file.
                9 => return Err(Fault::Damaged),
                _ => {
                    let number = self.scalar(kind)?;
                    numbers.extend((at < KEPT_NUMBERS).then_some(number));
                }
            }
        }
        Ok(Value::List { length, numbers })
    }

    fn tensor(&mut self) -> Read1<(String, Tensor)> {
        /// ggml's most dimensions.
        const DIMENSIONS: u32 = 4;
        let name = self.text()?;
        let dimensions = self.u32()?;
        if dimensions > DIMENSIONS {
            return Err(Fault::Damaged);
        }
        let shape = (0..dimensions).map(|_| self.u64()).collect::<Read1<Vec<u64>>>()?;
        let kind = self.u32()?;
        self.skip(8)?;
        Ok((name, Tensor { shape, kind }))
    }
}

#[cfg(test)]
mod tests;
