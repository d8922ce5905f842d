//! The picture: a panel for each operation and size, a bar for each peer: its time of a message over gridnet's.

use crate::op::Task;
use crate::palette::{letters, BLUE, INK, VERMILION};
use crate::peer::GRIDNET;
use crate::report::{times, Report};
use crate::row::Row;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// The picture as SVG text.
pub(crate) fn draw(report: &Report) -> Result<String, String> {
    let panels: Vec<(Task, &[Row])> = report.tasks().collect();
    let height = HEAD + panels.chunks(COLUMNS).map(panel_height).sum::<i32>() + FOOT;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH as u32, height as u32)).into_drawing_area();
        let drawn = frame(&root, report, height).and_then(|()| {
            let mut top = HEAD;
            for side_by_side in panels.chunks(COLUMNS) {
                for (column, (task, rows)) in side_by_side.iter().enumerate() {
                    panel(&root, (MARGIN + column as i32 * PANEL_WIDTH, top), *task, rows)?;
                }
                top += panel_height(side_by_side);
            }
            root.present()
        });
        drawn.map_err(|error| format!("cannot draw: {error}"))?;
    }
    Ok(svg)
}

/// Height of panels that stand side by side: that of the longest.
fn panel_height(side_by_side: &[(Task, &[Row])]) -> i32 {
    let lines = side_by_side.iter().map(|(_, rows)| rows.len()).max().unwrap_or(0);
    PANEL_HEAD + lines as i32 * LINE + PANEL_GAP
}

/// Title, and what the bars mean.
fn frame(root: &Area, report: &Report, height: i32) -> Drawn {
    root.fill(&WHITE)?;
    let title = "Time of a message, relative to gridnet in the same run";
    write(root, title, (MARGIN, 34), 26, HPos::Left, &INK)?;
    let fact = |name: &str| report.machine.facts.iter().find(|(fact, _)| fact == name);
    let facts = ["processor", "canary"].into_iter().filter_map(fact);
    let facts: Vec<String> = facts.map(|(name, value)| format!("{name} {value}")).collect();
    write(root, &facts.join("; "), (MARGIN, 62), 14, HPos::Left, &SOFT)?;
    let mut x = MARGIN;
    for (color, meaning) in [
        (SLOWER, "slower than gridnet"),
        (FASTER, "faster than gridnet"),
        (UNSTABLE, "unstable: the cores moved"),
    ] {
        root.draw(&Rectangle::new([(x, height - 30), (x + 14, height - 16)], color.filled()))?;
        write(root, meaning, (x + 22, height - 23), 14, HPos::Left, &INK)?;
        x += 220;
    }
    write(root, "logarithmic; no bar: as fast as gridnet", (x, height - 23), 14, HPos::Left, &SOFT)
}

fn panel(root: &Area, (left, top): (i32, i32), task: Task, rows: &[Row]) -> Drawn {
    let gridnet = rows.first().and_then(|row| row.figures.as_ref().ok());
    let value =
        gridnet.map_or("not run".to_owned(), |figures| task.op.shows.text(figures.time_ns, task.size));
    write(root, &task.to_string(), (left, top + 10), 18, HPos::Left, &INK)?;
    let right = left + PANEL_WIDTH - PANEL_GAP;
    write(root, &format!("gridnet {value}"), (right, top + 10), 14, HPos::Right, &SOFT)?;
    let scale = Scale::of(rows, left + NAMES, right - VALUES);
    let (first, last) = (top + PANEL_HEAD, top + PANEL_HEAD + rows.len() as i32 * LINE);
    let middle = scale.x(1.0);
    root.draw(&PathElement::new([(middle, first - 4), (middle, last)], FAINT.stroke_width(2)))?;
    for (at, row) in rows.iter().enumerate() {
        bar(root, row, left, first + at as i32 * LINE, &scale)?;
    }
    Ok(())
}

/// A name, a bar and its ratio.
fn bar(root: &Area, row: &Row, left: i32, top: i32, scale: &Scale) -> Drawn {
    let middle = top + LINE / 2;
    write(root, row.peer, (left + NAMES - 10, middle), 14, HPos::Right, &INK)?;
    let one = scale.x(1.0);
    let Some((figures, ratio)) = row.figures.as_ref().ok().and_then(|it| Some((it, it.to_gridnet?))) else {
        return write(root, "not run", (one + 6, middle), 13, HPos::Left, &SOFT);
    };
    let color = match ratio {
        _ if row.peer == GRIDNET => INK,
        _ if figures.unstable => UNSTABLE,
        // What is written beside the bar, which has two decimals, decides.
        ratio if ratio < 0.995 => FASTER,
        _ => SLOWER,
    };
    let end = scale.x(ratio);
    let (from, to) = (one.min(end), one.max(end).max(one.min(end) + 2));
    root.draw(&Rectangle::new([(from, top + 3), (to, top + LINE - 3)], color.filled()))?;
    write(root, &times(ratio), (to.max(one) + 6, middle), 14, HPos::Left, &INK)
}

/// Ratios to pixels, logarithmic.
struct Scale {
    least: f64,
    most: f64,
    left: i32,
    right: i32,
}

impl Scale {
    /// Room for all ratios of `rows`, and at least for half and twice as fast.
    fn of(rows: &[Row], left: i32, right: i32) -> Scale {
        let ratios = rows.iter().filter_map(|row| row.figures.as_ref().ok()?.to_gridnet);
        let (least, most) = ratios.fold((0.8, 2.0), |(a, b): (f64, f64), ratio| (a.min(ratio), b.max(ratio)));
        Scale { least, most, left, right }
    }

    fn x(&self, ratio: f64) -> i32 {
        let part = (ratio / self.least).ln() / (self.most / self.least).ln();
        self.left + (part * f64::from(self.right - self.left)).round() as i32
    }
}

fn write(root: &Area, text: &str, at: (i32, i32), size: u32, side: HPos, color: &RGBColor) -> Drawn {
    let style = letters(size, color).pos(Pos::new(side, VPos::Center));
    root.draw(&Text::new(text.to_owned(), at, style))
}

/// Pixels.
const WIDTH: i32 = 1280;
const MARGIN: i32 = 28;
const HEAD: i32 = 96;
const FOOT: i32 = 44;
const COLUMNS: usize = 3;
const PANEL_WIDTH: i32 = (WIDTH - 2 * MARGIN + PANEL_GAP) / COLUMNS as i32;
const PANEL_HEAD: i32 = 34;
const PANEL_GAP: i32 = 28;
const LINE: i32 = 21;
/// Room for the names of the peers, and for the ratio after the longest bar.
const NAMES: i32 = 128;
const VALUES: i32 = 60;

const SOFT: RGBColor = RGBColor(0x77, 0x77, 0x77);
const FAINT: RGBColor = RGBColor(0xbb, 0xbb, 0xbb);
const SLOWER: RGBColor = BLUE;
const FASTER: RGBColor = VERMILION;
const UNSTABLE: RGBColor = RGBColor(0xcc, 0xcc, 0xcc);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_has_a_panel_and_every_peer_a_line() {
        crate::report::tests::sample(|report| {
            let svg = draw(report).unwrap();
            let document = roxmltree::Document::parse(&svg).unwrap();
            let texts: Vec<&str> = document.descendants().filter_map(|it| it.text()).map(str::trim).collect();
            for part in ["tag_lat 8 B", "tag_rate 8 B", "2.50 x", "not run", "zeromq", "gridnet 0.100 us"] {
                assert!(texts.contains(&part), "{part} in {texts:?}");
            }
        });
    }

    #[test]
    fn the_scale_is_logarithmic_and_reaches_every_ratio() {
        let scale = Scale { least: 0.5, most: 8.0, left: 0, right: 400 };
        assert_eq!([0.5, 1.0, 2.0, 8.0].map(|ratio| scale.x(ratio)), [0, 100, 200, 400]);
    }
}
