//! How far a download is: one line that is written over on a terminal, else a line every ten seconds.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::time::Instant;

const WIDTH: usize = 30;
const ON_TERMINAL: Duration = Duration::from_millis(100);
const IN_LOG: Duration = Duration::from_secs(10);

/// A bar for one file, on stderr.
#[derive(Debug)]
pub(super) struct Bar {
    name: String,
    begun: Instant,
    /// What was there when it began.
    first: Option<u64>,
    shown: Option<Instant>,
    terminal: bool,
}

impl Bar {
    pub(super) fn new(name: &str) -> Bar {
        let terminal = std::io::stderr().is_terminal();
        Bar { name: name.to_owned(), begun: Instant::now(), first: None, shown: None, terminal }
    }

    /// So many bytes of so many are there.
    pub(super) fn show(&mut self, have: u64, of: u64) {
        let first = *self.first.get_or_insert(have);
        let every = if self.terminal { ON_TERMINAL } else { IN_LOG };
        if have < of && self.shown.is_some_and(|shown| shown.elapsed() < every) {
            return;
        }
        self.shown = Some(Instant::now());
        let line = render(&self.name, (have, of), (have - first.min(have), self.begun.elapsed()));
        let mut stderr = std::io::stderr();
        // A bar that cannot be shown stops nothing.
        let _ = if self.terminal { write!(stderr, "\r{line}\x1b[K") } else { writeln!(stderr, "{line}") };
    }

    /// Leaves the line.
    pub(super) fn end(&mut self) {
        if self.terminal && self.shown.is_some() {
            eprintln!();
        }
    }
}

fn render(name: &str, (have, of): (u64, u64), (got, took): (u64, Duration)) -> String {
    let share = if of == 0 { 1.0 } else { have as f64 / of as f64 };
    let full = (share * WIDTH as f64) as usize;
    let bar: String = (0..WIDTH).map(|at| if at < full { '#' } else { '.' }).collect();
    let speed = got as f64 / took.as_secs_f64().max(0.001);
    let left = if speed > 0.0 { (of - have.min(of)) as f64 / speed } else { 0.0 };
    let [have, of, speed] = [have, of, speed as u64].map(size);
    format!("{name} [{bar}] {:.0} % {have} of {of}, {speed}/s, {left:.0} s left", share * 100.0)
}

/// A size for a person.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_tells_share_speed_and_what_is_left() {
        let line = render("m.gguf", (50_000_000, 200_000_000), (30_000_000, Duration::from_secs(3)));
        assert_eq!(line, "m.gguf [#######.......................] 25 % 50 MB of 200 MB, 10 MB/s, 15 s left");
        assert!(render("empty", (0, 0), (0, Duration::ZERO)).contains("100 %"));
    }
}
