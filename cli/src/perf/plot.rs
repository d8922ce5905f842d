//! The picture: latency and bandwidth against message size, side by side.

use super::palette::{letters, BLUE, INK, VERMILION};
use super::row::Row;
use crate::args::Op;
use crate::failure::Failure;
use crate::text;
use plotters::coord::ranged1d::ValueFormatter;
use plotters::coord::types::RangedCoordf64;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A picture that is going to be written: opened before the measurement, so that a bad path is found before it, and
/// in place of the old file only when it is complete.
pub(crate) struct PlotFile {
    path: PathBuf,
    unfinished: PathBuf,
}

impl PlotFile {
    /// Prepares to write to `path`.
    pub(crate) fn create(path: &Path) -> Result<PlotFile, Failure> {
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".tmp");
        let file = PlotFile { path: path.to_owned(), unfinished: unfinished.into() };
        if path.is_dir() {
            return Err(file.failed("it is a directory"));
        }
        fs::write(&file.unfinished, "").map_err(|error| file.failed(error))?;
        Ok(file)
    }

    /// Draws `rows` under `title` and puts the picture in place.
    pub(crate) fn finish(self, title: &str, rows: &[Row]) -> Result<(), Failure> {
        let svg = draw(title, rows).map_err(Failure::Run)?;
        let written =
            fs::write(&self.unfinished, svg).and_then(|()| fs::rename(&self.unfinished, &self.path));
        written.map_err(|error| self.failed(error))
    }

    fn failed(&self, why: impl std::fmt::Display) -> Failure {
        Failure::Usage(format!("--plot {}: cannot be written: {why}", self.path.display()))
    }
}

impl Drop for PlotFile {
    fn drop(&mut self) {
        // Gone already if the picture is in place.
        let _ = fs::remove_file(&self.unfinished);
    }
}

/// The picture as SVG text.
fn draw(title: &str, rows: &[Row]) -> Result<String, String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        let outcome = draw_panels(&root, title, &panels(rows)).and_then(|()| root.present());
        outcome.map_err(|error| format!("cannot draw: {error}"))?;
    }
    Ok(svg)
}

/// One diagram.
struct Panel {
    title: &'static str,
    unit: &'static str,
    color: RGBColor,
    /// Binary logarithm of the size, and value.
    points: Vec<(f64, f64)>,
    /// A horizontal line and what it is.
    limit: Option<(f64, String)>,
    logarithmic: bool,
}

fn panels(rows: &[Row]) -> Vec<Panel> {
    let points = |op: Op, value: fn(&Row) -> Option<f64>| {
        let of_op = rows.iter().filter(|row| row.op == op && row.size > 0);
        let mut points: Vec<(f64, f64)> =
            of_op.filter_map(|row| Some(((row.size as f64).log2(), value(row)?))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    };
    let mut canaries: Vec<f64> = rows.iter().filter_map(|row| row.canary_ns).collect();
    canaries.sort_by(f64::total_cmp);
    let canary = canaries.get(canaries.len() / 2).copied();
    let latency = Panel {
        title: "Latency",
        unit: "microseconds, one way (median)",
        color: LATENCY_COLOR,
        points: points(Op::TagLat, |row| row.p50_us),
        limit: canary.map(|ns| (ns / 1000.0, format!("bare cache line, {ns:.0} ns"))),
        logarithmic: true,
    };
    let bandwidth = Panel {
        title: "Bandwidth",
        unit: "GB/s",
        color: BANDWIDTH_COLOR,
        points: points(Op::TagBw, |row| row.gb_per_s),
        limit: None,
        logarithmic: false,
    };
    [latency, bandwidth].into_iter().filter(|panel| !panel.points.is_empty()).collect()
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, Y> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, Y>>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn draw_panels(root: &Area, title: &str, panels: &[Panel]) -> Drawn {
    root.fill(&WHITE)?;
    let areas =
        root.margin(MARGIN, 0, 0, 0).titled(title, text_style(18))?.split_evenly((1, panels.len().max(1)));
    areas.iter().zip(panels).try_for_each(|(area, panel)| draw_panel(area, panel))
}

fn draw_panel(area: &Area, panel: &Panel) -> Drawn {
    let sizes = powers(panel.points.iter().map(|(size, _)| *size));
    let values =
        || panel.points.iter().map(|(_, value)| *value).chain(panel.limit.iter().map(|(value, _)| *value));
    let mut builder = ChartBuilder::on(area);
    builder.margin(MARGIN).margin_right(2 * MARGIN).x_label_area_size(56).y_label_area_size(76);
    builder.caption(panel.title, text_style(28));
    if panel.logarithmic {
        let decades = powers(values().map(f64::log10));
        // A little more, lest rounding takes the lowest label away.
        let range = 0.999 * 10f64.powf(decades.start)..10f64.powf(decades.end);
        return draw_chart(builder.build_cartesian_2d(sizes, range.log_scale())?, panel);
    }
    let most = values().fold(0.0, f64::max);
    draw_chart(builder.build_cartesian_2d(sizes, 0.0..most * 1.1)?, panel)
}

fn draw_chart<'a, Y>(mut chart: Chart<'a, Y>, panel: &Panel) -> Drawn
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    chart
        .configure_mesh()
        .x_desc("message size")
        .y_desc(panel.unit)
        .x_labels(10)
        .x_label_formatter(&|power| size_label(*power))
        .y_label_formatter(&|value| format!("{}", (value * 1e6).round() / 1e6))
        .label_style(text_style(16))
        .axis_desc_style(text_style(18))
        .axis_style(FAINT)
        .bold_line_style(FAINT)
        .light_line_style(TRANSPARENT)
        .draw()?;
    if let Some((value, what)) = &panel.limit {
        let ends = [chart.x_range().start, chart.x_range().end];
        chart.draw_series(DashedLineSeries::new(ends.map(|x| (x, *value)), 8, 6, INK.stroke_width(2)))?;
        let label = Text::new(what.clone(), (-6, 6), text_style(16).pos(Pos::new(HPos::Right, VPos::Top)));
        chart.draw_series([EmptyElement::at((ends[1], *value)) + label])?;
    }
    chart.draw_series(LineSeries::new(panel.points.iter().copied(), panel.color.stroke_width(3)))?;
    chart.draw_series(panel.points.iter().map(|point| Circle::new(*point, 5, panel.color.filled())))?;
    Ok(())
}

/// The whole numbers around `values`, at least one apart.
fn powers(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (least, most) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), value| (a.min(value), b.max(value)));
    least.floor()..most.ceil().max(least.floor() + 1.0)
}

/// `64`, `1 KiB`; nothing between powers of two.
fn size_label(power: f64) -> String {
    match power.fract() == 0.0 && power >= 0.0 {
        true => text::size(1 << power as u32),
        false => String::new(),
    }
}

fn text_style(size: u32) -> TextStyle<'static> {
    letters(size, &INK)
}

/// Pixels; a slide is 16 to 9, and the picture takes most of one.
const WIDTH: u32 = 1280;
const HEIGHT: u32 = 640;
const MARGIN: u32 = 18;

const FAINT: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
const LATENCY_COLOR: RGBColor = BLUE;
const BANDWIDTH_COLOR: RGBColor = VERMILION;

#[cfg(test)]
mod tests {
    use super::super::output::tests::sample;
    use super::*;

    fn texts(svg: &str) -> String {
        let document = roxmltree::Document::parse(svg).unwrap();
        let texts: Vec<&str> = document.descendants().filter_map(|node| node.text()).map(str::trim).collect();
        texts.join("|")
    }

    #[test]
    fn the_picture_has_a_panel_for_each_quantity() {
        let rows = [8, 64, 1 << 20].map(|size| [sample(Op::TagLat, size), sample(Op::TagBw, size)]).concat();
        let texts = texts(&draw("gridnet here", &rows).unwrap());
        for part in ["Latency", "Bandwidth", "bare cache line, 58 ns", "GB/s", "message size", "KiB"] {
            assert!(texts.contains(part), "{part} in {texts}");
        }
    }

    #[test]
    fn one_row_is_enough() {
        let texts = texts(&draw("", &[sample(Op::TagBw, 0), sample(Op::TagLat, 24)]).unwrap());
        assert!(texts.contains("Latency") && !texts.contains("Bandwidth"));
    }

    #[test]
    fn a_path_that_cannot_be_written_is_found_first() {
        let missing = Path::new("/nonexistent/picture.svg");
        assert!(
            matches!(PlotFile::create(missing), Err(Failure::Usage(text)) if text.contains("picture.svg"))
        );
        assert!(PlotFile::create(Path::new("/")).is_err());
    }
}
