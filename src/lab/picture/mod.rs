//! Draws panels of lines and points: one SVG, and the same as PNG.
//!
//! Hides scales, ticks and the legend. Promises: the picture depends on nothing but what it is
//! given; text in the PNG is drawn with a font that is part of the binary (a subset of DejaVu Sans,
//! `LICENSE-dejavu.txt`), so that no font has to be installed; values that are not finite are left
//! out. Called by `eval`.

mod axis;

use std::fmt::Write;
use std::sync::Arc;

use resvg::{tiny_skia, usvg};

use axis::Scale;

const FONT: &[u8] = include_bytes!("dejavu-sans-latin.ttf");
const FAMILY: &str = "DejaVu Sans";

/// Pixels of a panel, and of what surrounds its axes.
const WIDTH: f64 = 470.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 68.0;
const RIGHT: f64 = 18.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 56.0;

/// Pixels of a line of the legend, and of a letter in it.
const LEGEND_LINE: f64 = 22.0;
const LETTER: f64 = 7.0;

/// How finely a PNG is drawn.
const ZOOM: f32 = 1.6;

/// Colours that the colour-blind can tell apart (Okabe and Ito, "Color universal design", 2008).
pub(super) const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b"];

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// A line.
    Line,
    /// A dashed line.
    Dashed,
    /// A dotted line.
    Dotted,
    /// A disc for each point.
    Discs,
    /// A square for each point.
    Squares,
    /// A disc for each point, a line through them.
    Beads,
}

/// Points of one kind; the same name in several panels stands once in the legend.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    /// For the legend.
    pub name: String,
    /// `#rrggbb`.
    pub colour: String,
    /// How it is drawn.
    pub look: Look,
    /// Across and up.
    pub points: Vec<(f64, f64)>,
    /// Upright intervals: across, from, to.
    pub bars: Vec<(f64, f64, f64)>,
}

/// Axes and what is drawn between them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Panel {
    /// Above it.
    pub title: String,
    /// Below the axis.
    pub across: String,
    /// Beside the axis.
    pub up: String,
    /// What is drawn, the last on top.
    pub series: Vec<Series>,
    /// Both axes end here; `None`: where the points do.
    pub span: Option<(f64, f64)>,
}

impl Series {
    /// Points without intervals.
    pub(super) fn new(name: &str, colour: &str, look: Look, points: Vec<(f64, f64)>) -> Series {
        Series { name: name.to_owned(), colour: colour.to_owned(), look, points, bars: Vec::new() }
    }
}

/// The panels side by side, at most `columns` in a row, the legend below.
pub(super) fn svg(panels: &[Panel], columns: usize) -> String {
    let columns = columns.min(panels.len()).max(1);
    let lines = panels.len().div_ceil(columns);
    let width = WIDTH * columns as f64;
    let legend = legend(panels, width);
    let height = HEIGHT * lines as f64 + LEGEND_LINE * legend.len() as f64 + 12.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"{FAMILY}, sans-serif\" font-size=\"12.5\" fill=\"#222222\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    for (place, panel) in panels.iter().enumerate() {
        let at = (WIDTH * (place % columns) as f64, HEIGHT * (place / columns) as f64);
        draw(&mut out, panel, at);
    }
    for (line, entries) in legend.iter().enumerate() {
        let y = HEIGHT * lines as f64 + LEGEND_LINE * (line as f64 + 0.5);
        draw_legend(&mut out, entries, (width, y));
    }
    out.push_str("</svg>\n");
    out
}

/// The picture as PNG.
///
/// # Errors
/// A picture that is no SVG or too large to draw.
pub(super) fn png(svg: &str) -> Result<Vec<u8>, String> {
    let mut fonts = usvg::fontdb::Database::new();
    fonts.load_font_data(FONT.to_vec());
    let options = usvg::Options { fontdb: Arc::new(fonts), font_family: FAMILY.to_owned(), ..usvg::Options::default() };
    let tree = usvg::Tree::from_str(svg, &options).map_err(|error| error.to_string())?;
    let size = tree.size();
    let (width, height) = ((size.width() * ZOOM).ceil() as u32, (size.height() * ZOOM).ceil() as u32);
    let mut pixels = tiny_skia::Pixmap::new(width, height).ok_or("the picture is too large")?;
    resvg::render(&tree, tiny_skia::Transform::from_scale(ZOOM, ZOOM), &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| error.to_string())
}

fn draw(out: &mut String, panel: &Panel, (x, y): (f64, f64)) {
    let all = || panel.series.iter().flat_map(|series| series.points.iter());
    let bars = || panel.series.iter().flat_map(|series| series.bars.iter());
    let span = |values: Vec<f64>| panel.span.or_else(|| axis::span(&values));
    let ups = all().map(|point| point.1).chain(bars().flat_map(|bar| [bar.1, bar.2])).collect();
    let (Some(across), Some(up)) = (span(all().map(|point| point.0).collect()), span(ups)) else { return };
    let across = Scale::new(across, (x + LEFT, x + WIDTH - RIGHT));
    let up = Scale::new(up, (y + HEIGHT - BOTTOM, y + TOP));
    frame(out, panel, (&across, &up));
    for series in &panel.series {
        for (at, from, to) in &series.bars {
            let (at, from, to) = (across.place(*at), up.place(*from), up.place(*to));
            let colour = &series.colour;
            push(
                out,
                format_args!(
                    "<path d=\"M{at:.1} {from:.1}V{to:.1}\" stroke=\"{colour}\" stroke-opacity=\"0.45\" stroke-width=\"2\"/>"
                ),
            );
        }
        let points: Vec<(f64, f64)> = series
            .points
            .iter()
            .filter(|(one, other)| one.is_finite() && other.is_finite())
            .map(|(one, other)| (across.place(*one), up.place(*other)))
            .collect();
        mark(out, series, &points);
    }
}

/// Grid, ticks, labels and title.
fn frame(out: &mut String, panel: &Panel, (across, up): (&Scale, &Scale)) {
    let (left, right, bottom, top) = (across.from(), across.to(), up.from(), up.to());
    for (value, text) in across.ticks() {
        let at = across.place(value);
        push(out, format_args!("<path d=\"M{at:.1} {bottom:.1}V{top:.1}\" stroke=\"#e4e4e4\"/>"));
        push(out, format_args!("<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>", bottom + 18.0));
    }
    for (value, text) in up.ticks() {
        let at = up.place(value);
        push(out, format_args!("<path d=\"M{left:.1} {at:.1}H{right:.1}\" stroke=\"#e4e4e4\"/>"));
        push(
            out,
            format_args!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>", left - 8.0, at + 4.5),
        );
    }
    push(
        out,
        format_args!("<path d=\"M{left:.1} {top:.1}V{bottom:.1}H{right:.1}\" fill=\"none\" stroke=\"#444444\"/>"),
    );
    let middle = (left + right) / 2.0;
    let (title, across, beside) = (escape(&panel.title), escape(&panel.across), escape(&panel.up));
    push(
        out,
        format_args!(
            "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"15\">{title}</text>",
            top - 16.0
        ),
    );
    push(
        out,
        format_args!("<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{across}</text>", bottom + 40.0),
    );
    let (x, y) = (left - 48.0, (top + bottom) / 2.0);
    push(
        out,
        format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 {x:.1} {y:.1})\">{beside}</text>"
        ),
    );
}

fn mark(out: &mut String, series: &Series, points: &[(f64, f64)]) {
    let colour = &series.colour;
    let dashes = match series.look {
        Look::Dashed => " stroke-dasharray=\"7 5\"",
        Look::Dotted => " stroke-dasharray=\"2 4\"",
        _ => "",
    };
    if !matches!(series.look, Look::Discs | Look::Squares) {
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        let path = path.join("L");
        push(
            out,
            format_args!(
                "<path d=\"M{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.2\" stroke-linejoin=\"round\"{dashes}/>"
            ),
        );
    }
    for (x, y) in points {
        match series.look {
            Look::Discs | Look::Beads => {
                push(out, format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\" fill=\"{colour}\"/>"))
            }
            Look::Squares => {
                let (x, y) = (x - 4.5, y - 4.5);
                push(out, format_args!("<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"9\" height=\"9\" fill=\"{colour}\"/>"));
            }
            Look::Line | Look::Dashed | Look::Dotted => {}
        }
    }
}

/// Every name once, in lines that fit.
fn legend(panels: &[Panel], width: f64) -> Vec<Vec<&Series>> {
    let mut entries: Vec<&Series> = Vec::new();
    for series in panels.iter().flat_map(|panel| &panel.series) {
        if !series.name.is_empty() && entries.iter().all(|known| known.name != series.name) {
            entries.push(series);
        }
    }
    let mut lines: Vec<Vec<&Series>> = Vec::new();
    for entry in entries {
        let fits = |line: &Vec<&Series>| entry_widths(line) + entry_width(entry) <= width - 20.0;
        match lines.last_mut().filter(|line| fits(line)) {
            Some(line) => line.push(entry),
            None => lines.push(vec![entry]),
        }
    }
    lines
}

fn entry_width(series: &Series) -> f64 {
    60.0 + LETTER * series.name.chars().count() as f64
}

fn entry_widths(entries: &[&Series]) -> f64 {
    entries.iter().map(|series| entry_width(series)).sum()
}

fn draw_legend(out: &mut String, entries: &[&Series], (width, y): (f64, f64)) {
    let mut x = (width - entry_widths(entries)) / 2.0;
    for series in entries {
        let sample: &[(f64, f64)] = match series.look {
            Look::Discs | Look::Squares => &[(x + 15.0, y)],
            _ => &[(x, y), (x + 30.0, y)],
        };
        mark(out, series, sample);
        push(out, format_args!("<text x=\"{:.1}\" y=\"{:.1}\">{}</text>", x + 38.0, y + 4.5, escape(&series.name)));
        x += entry_width(series);
    }
}

fn push(out: &mut String, element: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{element}");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel() -> Panel {
        let mut line = Series::new("a < b", COLOURS[0], Look::Line, vec![(0.0, 0.2), (0.5, f64::NAN), (1.0, 0.9)]);
        line.bars.push((0.0, 0.1, 0.3));
        let discs = Series::new("ends", "#000000", Look::Discs, vec![(1.0, 0.4)]);
        Panel { title: "t".into(), across: "x".into(), up: "y".into(), series: vec![line, discs], span: None }
    }

    #[test]
    fn a_name_stands_once_in_the_legend_and_is_escaped() {
        let drawn = svg(&[panel(), panel()], 2);
        assert_eq!(drawn.matches(">a &lt; b</text>").count(), 1);
        assert!(!drawn.contains("NaN"));
    }

    #[test]
    fn a_png_has_ink_of_every_colour_and_text_without_a_font_of_the_system() {
        let drawn = svg(&[panel()], 1);
        let pixels = tiny_skia::Pixmap::decode_png(&png(&drawn).unwrap()).unwrap();
        let has = |wanted: [u8; 3]| pixels.pixels().iter().any(|p| [p.red(), p.green(), p.blue()] == wanted);
        assert!(has([0x00, 0x72, 0xb2]) && has([0, 0, 0]) && has([0xff, 0xff, 0xff]));
        let bare = png(&drawn.replace("<text", "<desc").replace("</text>", "</desc>")).unwrap();
        assert_ne!(bare, png(&drawn).unwrap());
    }

    #[test]
    fn without_points_nothing_is_drawn_between_the_axes() {
        let empty = Panel { series: Vec::new(), ..panel() };
        assert!(!svg(&[empty], 1).contains("<path"));
    }
}
