use plotters::prelude::*;

use super::ReportError;

const SIZE: (u32, u32) = (720, 300);
/// Told apart by people who see colours differently (Okabe and Ito).
const COLORS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// A line of a chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What the legend says.
    pub name: String,
    /// Points from left to right; those that are not numbers are left out.
    pub points: Vec<(f64, f64)>,
}

/// A chart of lines over a common axis, as SVG.
///
/// # Errors
/// [`ReportError`] when there is no point to draw.
pub fn line_chart(title: &str, x_label: &str, series: &[Series]) -> Result<String, ReportError> {
    let failed = |problem: String| ReportError { title: title.to_owned(), problem };
    let points = series.iter().flat_map(|series| &series.points);
    let points: Vec<(f64, f64)> =
        points.copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    if points.is_empty() {
        return Err(failed("there is no point".to_owned()));
    }
    let xs = bounds(points.iter().map(|(x, _)| *x), 0.0);
    let ys = bounds(points.iter().map(|(_, y)| *y), 0.05);
    let mut svg = String::new();
    draw(&mut svg, (title, x_label), (xs, ys), series)
        .map_err(|error| failed(error.to_string()))?;
    Ok(svg)
}

/// Least and largest value with a margin, never of no width.
fn bounds(values: impl Iterator<Item = f64>, margin: f64) -> std::ops::Range<f64> {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    let width = if high > low { high - low } else { high.abs().max(1.0) };
    let margin = if high > low { margin * width } else { 0.5 * width };
    low - margin..high + margin
}

type Bounds = (std::ops::Range<f64>, std::ops::Range<f64>);

fn draw(
    svg: &mut String,
    (title, x_label): (&str, &str),
    (xs, ys): Bounds,
    series: &[Series],
) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let narrow = ys.end.abs().max(ys.start.abs()) < 0.01;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(xs, ys)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(225, 229, 235))
        .x_desc(x_label)
        .y_label_formatter(&|y| if narrow { format!("{y:.1e}") } else { format!("{y:.3}") })
        .draw()?;
    for (series, color) in series.iter().zip(COLORS.iter().cycle()) {
        let points = series.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite());
        let color = *color;
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(series.name.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(213, 218, 226))
        .draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, points: &[(f64, f64)]) -> Series {
        Series { name: name.to_owned(), points: points.to_vec() }
    }

    #[test]
    fn lines_are_drawn_named_and_escaped() {
        let all = [
            series("loss", &[(1.0, 3.0), (2.0, f64::NAN), (3.0, 1.0)]),
            series("a<b", &[(1.0, 2.0), (3.0, 2.5)]),
        ];
        let svg = line_chart("Losses", "epoch", &all).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.matches("<polyline").count() >= 4, "two lines and their legend");
        assert!(svg.contains("Losses") && svg.contains("epoch") && svg.contains("a&lt;b"));
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn one_value_has_a_chart_and_none_has_not() {
        assert!(line_chart("rate", "epoch", &[series("a", &[(1.0, 0.0)])]).is_ok());
        let error = line_chart("rate", "epoch", &[series("a", &[(1.0, f64::NAN)])]).unwrap_err();
        assert!(error.to_string().contains("rate"));
    }
}
