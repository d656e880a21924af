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

/// How values lie along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// As they are.
    Linear,
    /// By their powers of ten; values that are not above zero are left out.
    Log,
}

impl Scale {
    fn place(self, value: f64) -> Option<f64> {
        let placed = match self {
            Self::Linear => value,
            Self::Log => value.log10(),
        };
        placed.is_finite().then_some(placed)
    }

    /// range: what the axis spans, which decides how many digits tell its marks apart.
    fn label(self, placed: f64, range: &std::ops::Range<f64>) -> String {
        match self {
            Self::Linear if range.end.abs().max(range.start.abs()) < 0.01 => {
                format!("{placed:.1e}")
            }
            Self::Linear => {
                let digits = (2.0 - (range.end - range.start).log10()).ceil().clamp(0.0, 3.0);
                format!("{placed:.*}", digits as usize)
            }
            Self::Log => format!("{:.1e}", 10_f64.powf(placed)).replace(".0e", "e"),
        }
    }
}

/// A chart's words and axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Above it.
    pub title: &'a str,
    /// Below it.
    pub x_label: &'a str,
    /// Left of it; may be empty.
    pub y_label: &'a str,
    /// Along the bottom.
    pub x: Scale,
    /// Up the side.
    pub y: Scale,
    /// Where the legend hides least.
    pub legend: Corner,
}

/// A corner of a chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Corner {
    /// At the top on the left.
    UpperLeft,
    /// At the top on the right.
    UpperRight,
    /// At the bottom on the left.
    LowerLeft,
    /// At the bottom on the right.
    LowerRight,
}

impl From<Corner> for SeriesLabelPosition {
    fn from(corner: Corner) -> Self {
        match corner {
            Corner::UpperLeft => Self::UpperLeft,
            Corner::UpperRight => Self::UpperRight,
            Corner::LowerLeft => Self::LowerLeft,
            Corner::LowerRight => Self::LowerRight,
        }
    }
}

/// A chart of lines over a common linear axis, as SVG.
///
/// # Errors
/// [`ReportError`] when there is no point to draw.
pub fn line_chart(title: &str, x_label: &str, series: &[Series]) -> Result<String, ReportError> {
    let (x, y, legend) = (Scale::Linear, Scale::Linear, Corner::UpperRight);
    lines(Frame { title, x_label, y_label: "", x, y, legend }, series)
}

/// A chart of lines, as SVG.
///
/// # Errors
/// [`ReportError`] when there is no point to draw.
pub fn lines(frame: Frame<'_>, series: &[Series]) -> Result<String, ReportError> {
    let failed = |problem: String| ReportError { title: frame.title.to_owned(), problem };
    let placed = |(x, y): &(f64, f64)| Some((frame.x.place(*x)?, frame.y.place(*y)?));
    let series: Vec<Series> = series
        .iter()
        .map(|series| Series {
            name: series.name.clone(),
            points: series.points.iter().filter_map(placed).collect(),
        })
        .collect();
    let points: Vec<(f64, f64)> = series.iter().flat_map(|s| &s.points).copied().collect();
    if points.is_empty() {
        return Err(failed("there is no point".to_owned()));
    }
    let xs = bounds(points.iter().map(|(x, _)| *x), 0.0);
    let ys = bounds(points.iter().map(|(_, y)| *y), 0.05);
    let mut svg = String::new();
    draw(&mut svg, frame, (xs, ys), &series).map_err(|error| failed(error.to_string()))?;
    Ok(svg)
}

/// Counts as a staircase of shares: a histogram's outline. `edges`: one more than counts.
#[must_use]
pub fn staircase(name: &str, edges: &[f64], counts: &[u64]) -> Series {
    let total = counts.iter().sum::<u64>().max(1) as f64;
    let mut points = Vec::with_capacity(2 * counts.len() + 2);
    if let Some(first) = edges.first() {
        points.push((*first, 0.0));
    }
    for (sides, count) in edges.windows(2).zip(counts) {
        points.extend(sides.iter().map(|side| (*side, *count as f64 / total)));
    }
    if let Some(last) = edges.last() {
        points.push((*last, 0.0));
    }
    Series { name: name.to_owned(), points }
}

/// Values beside each other in groups, as SVG: one bar of each series a group. Values that are not numbers are
/// left out.
///
/// # Errors
/// [`ReportError`] when there is no bar to draw.
pub fn bars(
    title: &str,
    y_label: &str,
    groups: &[String],
    series: &[(String, Vec<f64>)],
) -> Result<String, ReportError> {
    let failed = |problem: String| ReportError { title: title.to_owned(), problem };
    let values = series.iter().flat_map(|(_, values)| values.iter().copied());
    let most = values.filter(|v| v.is_finite()).fold(f64::NEG_INFINITY, f64::max);
    if groups.is_empty() || !most.is_finite() {
        return Err(failed("there is no bar".to_owned()));
    }
    let least = series.iter().flat_map(|(_, values)| values).copied().filter(|v| v.is_finite());
    let least = least.fold(0.0, f64::min);
    let ys = least * 1.05..most.max(1e-9) * 1.05;
    let mut svg = String::new();
    draw_bars(&mut svg, (title, y_label), ys, (groups, series))
        .map_err(|error| failed(error.to_string()))?;
    Ok(svg)
}

fn draw_bars(
    svg: &mut String,
    (title, y_label): (&str, &str),
    ys: std::ops::Range<f64>,
    (groups, series): (&[String], &[(String, Vec<f64>)]),
) -> Result<(), Box<dyn std::error::Error>> {
    let size = (SIZE.0.max(40 * groups.len() as u32), SIZE.1 + 90);
    let area = SVGBackend::with_string(svg, size).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(126)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..groups.len() as f64, ys)?;
    let name = |x: &f64| {
        let group = groups.get(x.floor().max(0.0) as usize);
        if (x - x.floor() - 0.5).abs() < 0.01 {
            group.cloned().unwrap_or_default()
        } else {
            String::new()
        }
    };
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(225, 229, 235))
        .disable_x_mesh()
        .x_labels(2 * groups.len() + 1)
        .x_label_formatter(&name)
        .x_label_style(("sans-serif", 12).into_font().transform(FontTransform::Rotate90))
        .y_desc(y_label)
        .draw()?;
    let width = 0.8 / series.len().max(1) as f64;
    for (at, ((name, values), color)) in series.iter().zip(COLORS.iter().cycle()).enumerate() {
        let color = *color;
        let left = |group: usize| group as f64 + 0.1 + at as f64 * width;
        let drawn = values.iter().enumerate().filter(|(_, value)| value.is_finite());
        chart
            .draw_series(drawn.map(|(group, value)| {
                Rectangle::new([(left(group), 0.0), (left(group) + width, *value)], color.filled())
            }))?
            .label(name.as_str())
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], color.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(213, 218, 226))
        .draw()?;
    area.present()?;
    Ok(())
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
    frame: Frame<'_>,
    (xs, ys): Bounds,
    series: &[Series],
) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let (x_range, y_range) = (xs.clone(), ys.clone());
    let mut chart = ChartBuilder::on(&area)
        .caption(frame.title, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(xs, ys)?;
    let x_label = |x: &f64| match frame.x {
        Scale::Linear => format!("{x:.1}").trim_end_matches(".0").to_owned(),
        Scale::Log => frame.x.label(*x, &x_range),
    };
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(225, 229, 235))
        .x_desc(frame.x_label)
        .y_desc(frame.y_label)
        .x_label_formatter(&x_label)
        .y_label_formatter(&|y| frame.y.label(*y, &y_range))
        .draw()?;
    for (series, color) in series.iter().zip(COLORS.iter().cycle()) {
        let color = *color;
        chart
            .draw_series(LineSeries::new(series.points.iter().copied(), color.stroke_width(2)))?
            .label(series.name.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(frame.legend.into())
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

    #[test]
    fn powers_of_ten_leave_out_what_has_none() {
        let frame = Frame {
            title: "DET",
            x_label: "FMR",
            y_label: "FNMR",
            x: Scale::Log,
            y: Scale::Log,
            legend: Corner::LowerLeft,
        };
        let det = series("nano", &[(0.0, 0.5), (0.001, 0.1), (0.1, 0.01)]);
        let svg = lines(frame, std::slice::from_ref(&det)).unwrap();
        assert!(svg.contains("FNMR") && svg.contains("1e-2"), "{svg}");
        assert!(lines(frame, &[series("a", &[(0.0, 0.0)])]).is_err());
    }

    #[test]
    fn a_histogram_keeps_its_shares_and_its_floor() {
        let steps = staircase("genuine", &[0.0, 0.5, 1.0], &[1, 3]);
        let points = [(0.0, 0.0), (0.0, 0.25), (0.5, 0.25), (0.5, 0.75), (1.0, 0.75), (1.0, 0.0)];
        assert_eq!(steps.points, points);
    }

    #[test]
    fn bars_are_named_and_none_is_an_error() {
        let groups = ["gaussian-blur".to_owned(), "jpeg".to_owned()];
        let values =
            [("probe".to_owned(), vec![0.2, f64::NAN]), ("both".to_owned(), vec![-0.1, 0.3])];
        let svg = bars("Rank-1 lost", "share", &groups, &values).unwrap();
        assert!(svg.contains("gaussian-blur") && svg.contains("jpeg") && svg.contains("probe"));
        assert!(!svg.contains("NaN"));
        assert!(bars("x", "y", &[], &values).is_err());
    }
}
