//! Pages for people: self-contained HTML with pictures drawn as SVG, and nothing to load from a network.
//! Knows numbers and words, not where they come from.

mod chart;
mod page;
mod text;

pub use chart::{Corner, Frame, Scale, Series, bars, line_chart, lines, staircase};
pub use page::Page;
pub use text::markdown_table;

/// Why a picture could not be drawn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the chart `{title}` cannot be drawn: {problem}")]
pub struct ReportError {
    /// The chart's title.
    pub title: String,
    /// What the drawing library said.
    pub problem: String,
}
