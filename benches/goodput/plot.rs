//! The README's picture: failures and wasted calls over load.

use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::{
    ChartBuilder, Color, DrawingArea, IntoDrawingArea, LineSeries, PathElement, RGBColor, SVGBackend, WHITE,
};
use plotters::style::BLACK;

use crate::report::{Figure, Row};
use crate::scenario::{Pool, Scenario};

const LOADS: [f64; 12] = [0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.1, 1.2, 1.3, 1.5];

/// Colours that also differ for the colour-blind (Okabe and Ito).
const LINES: [(&str, &str, RGBColor); 4] = [
    ("oracle", "sees the true counters", RGBColor(120, 120, 120)),
    ("sidestep", "Sidestep", RGBColor(0, 114, 178)),
    ("samples", "Microsoft's samples", RGBColor(213, 94, 0)),
    ("litellm-shuffle", "LiteLLM (shuffle)", RGBColor(0, 158, 115)),
];

/// One line: its label, its colour, its rows over load.
type Line = (&'static str, RGBColor, Vec<Row>);

/// Measures, and writes the SVG.
pub(crate) fn plot(path: &Path, seeds: u64) -> Result<(), Box<dyn Error>> {
    let lines = LINES.map(|(policy, label, colour)| {
        let measure = |load: &f64| {
            let scenario = Scenario::base(Pool::Unequal(8), *load);
            Row::measure(policy, label, &scenario, seeds)
        };
        (label, colour, LOADS.iter().map(measure).collect::<Vec<_>>())
    });
    let root = SVGBackend::new(path, (960, 400)).into_drawing_area();
    root.fill(&WHITE)?;
    let (left, right) = root.split_horizontally(480);
    panel(&left, "requests lost after the SDK's retries, %", 30.0, &lines, |run| run.failing_percent)?;
    panel(&right, "429s fetched per 1,000 requests", 1_250.0, &lines, |run| run.upstream_429_per_1000)?;
    root.present()?;
    Ok(())
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    title: &str,
    top: f64,
    lines: &[Line],
    figure: Figure,
) -> Result<(), Box<dyn Error>> {
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d(50.0..150.0, 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc("offered load, % of the quota")
        .x_label_formatter(&|load| format!("{load:.0}"))
        .y_label_formatter(&|value| format!("{value:.0}"))
        .label_style(("sans-serif", 12))
        .light_line_style(WHITE)
        .draw()?;
    for (label, colour, rows) in lines {
        let points = rows.iter().map(|row| (row.scenario.load * 100.0, row.mean(figure)));
        let style = colour.stroke_width(2);
        chart
            .draw_series(LineSeries::new(points, style))?
            .label(*label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(plotters::chart::SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .border_style(BLACK.mix(0.2))
        .label_font(("sans-serif", 12))
        .draw()?;
    Ok(())
}
