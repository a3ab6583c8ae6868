//! A CSV file, gzip or not, whose cells are asked for by the names of their columns.
//!
//! Every refusal names the file and the line where the row begins. Called by the importers.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use csv::StringRecord;
use flate2::bufread::MultiGzDecoder;

use super::problem;
use crate::error::Problem;

const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Opens a file that may be gzip.
pub(in crate::lab) fn open(path: &Path) -> Result<BufReader<Box<dyn Read>>, Problem> {
    let unreadable = |error: std::io::Error| problem(path, None, format!("cannot read: {error}"));
    let mut file = BufReader::new(File::open(path).map_err(unreadable)?);
    let packed = file.fill_buf().map_err(unreadable)?.starts_with(&GZIP);
    Ok(BufReader::new(if packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) }))
}

/// The whole table.
pub(super) struct Table {
    path: PathBuf,
    names: Vec<String>,
    rows: Vec<StringRecord>,
}

/// One row of it.
#[derive(Clone, Copy)]
pub(super) struct Cells<'a> {
    table: &'a Table,
    record: &'a StringRecord,
}

impl Table {
    pub(super) fn read(path: &Path) -> Result<Table, Problem> {
        let refused = |error: csv::Error| {
            let line = error.position().map(csv::Position::line);
            problem(path, line, format!("not CSV: {error}"))
        };
        let mut reader = csv::Reader::from_reader(open(path)?);
        let names = reader.headers().map_err(refused)?.iter().map(str::to_owned).collect();
        let rows = reader.records().collect::<Result<_, _>>().map_err(refused)?;
        Ok(Table { path: path.to_owned(), names, rows })
    }

    /// The names of the columns, from the left.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// The place of a column that may be missing.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }

    /// The place of a column.
    pub(super) fn column(&self, name: &str) -> Result<usize, Problem> {
        self.find(name).ok_or_else(|| self.missing(name))
    }

    /// The place of the first column whose name begins so.
    pub(super) fn column_like(&self, start: &str) -> Result<usize, Problem> {
        self.names.iter().position(|known| known.starts_with(start)).ok_or_else(|| self.missing(start))
    }

    fn missing(&self, name: &str) -> Problem {
        let known = self.names.join(", ");
        problem(&self.path, Some(1), format!("no column \"{name}\"; it has: {known}; is this another form?"))
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = Cells<'_>> {
        self.rows.iter().map(|record| Cells { table: self, record })
    }
}

impl<'a> Cells<'a> {
    /// The text of a cell.
    pub(super) fn text(self, column: usize) -> &'a str {
        self.record.get(column).unwrap_or_default()
    }

    /// The number in a cell: finite; `true` is 1 and `false` 0.
    pub(super) fn number(self, column: usize) -> Result<f64, Problem> {
        let text = self.text(column);
        let number = match text.trim().to_ascii_lowercase().as_str() {
            "true" => Some(1.0),
            "false" => Some(0.0),
            digits => digits.parse::<f64>().ok().filter(|number| number.is_finite()),
        };
        number.ok_or_else(|| self.wrong(format!("{} \"{text}\": not a number", self.table.names[column])))
    }

    /// A complaint about this row.
    pub(super) fn wrong(self, message: String) -> Problem {
        problem(&self.table.path, self.record.position().map(csv::Position::line), message)
    }
}
