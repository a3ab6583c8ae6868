//! Scales of a picture's axes: values to pixels, and the round values that are marked.

/// How many ticks an axis has, about.
const TICKS: f64 = 5.0;

/// Where the finite values begin and end, with a little room; `None` where there are none.
pub(super) fn span(values: &[f64]) -> Option<(f64, f64)> {
    let finite = || values.iter().copied().filter(|value| value.is_finite());
    let (low, high) = (finite().reduce(f64::min)?, finite().reduce(f64::max)?);
    let room = if high > low { 0.04 * (high - low) } else { 0.5 };
    let floor = if low >= 0.0 { 0.0 } else { f64::NEG_INFINITY };
    Some(((low - room).max(floor), high + room))
}

/// A linear scale.
pub(super) struct Scale {
    values: (f64, f64),
    pixels: (f64, f64),
}

impl Scale {
    pub(super) fn new(values: (f64, f64), pixels: (f64, f64)) -> Scale {
        Scale { values, pixels }
    }

    pub(super) fn from(&self) -> f64 {
        self.pixels.0
    }

    pub(super) fn to(&self) -> f64 {
        self.pixels.1
    }

    pub(super) fn place(&self, value: f64) -> f64 {
        let (low, high) = self.values;
        self.pixels.0 + (value - low) / (high - low) * (self.pixels.1 - self.pixels.0)
    }

    /// Values of 1, 2 or 5 times a power of ten, with their texts.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let (low, high) = self.values;
        let rough = (high - low) / TICKS;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|times| times * power).find(|step| *step >= rough * 0.9);
        let step = step.unwrap_or(rough);
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        let first = (low / step - 1e-9).ceil() as i64;
        let last = (high / step + 1e-9).floor() as i64;
        (first..=last).map(|at| (at as f64 * step, format!("{:.decimals$}", at as f64 * step))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let texts = |low, high| -> Vec<String> {
            Scale::new((low, high), (0.0, 100.0)).ticks().into_iter().map(|(_, text)| text).collect()
        };
        assert_eq!(texts(0.0, 1.0), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(texts(0.38, 0.71), ["0.4", "0.5", "0.6", "0.7"]);
        assert_eq!(texts(0.0, 0.07), ["0.00", "0.02", "0.04", "0.06"]);
        assert_eq!(texts(0.0, 30.0), ["0", "10", "20", "30"]);
    }

    #[test]
    fn a_span_leaves_out_what_is_not_finite_and_does_not_go_below_0_for_shares() {
        let (low, high) = span(&[f64::NAN, 0.01, 1.0, f64::INFINITY]).unwrap();
        assert!(low == 0.0 && (1.0..1.1).contains(&high));
        assert_eq!(span(&[f64::NAN]), None);
        assert_eq!(span(&[3.0]), Some((2.5, 3.5)));
    }
}
