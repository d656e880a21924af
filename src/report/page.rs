use std::fmt::Write as _;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:78rem;margin:2rem auto;padding:0 1rem;color:#1c2430;background:#fff}\
h1,h2{line-height:1.2}table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}th,td{padding:.3rem .7rem;border-bottom:1px solid #d5dae2;text-align:right;white-space:nowrap}\
th:first-child,td:first-child{text-align:left}figure{margin:1rem 0}svg{max-width:100%;height:auto}pre{background:#f4f6f9;padding:1rem;overflow:auto}\
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(24rem,1fr));gap:.6rem}.charts figure{margin:0}\
.row{display:flex;flex-wrap:wrap;gap:.6rem}.row figure{margin:0;max-width:9rem}.row img{width:100%}figcaption{font-size:12px}";

/// An HTML page made from top to bottom. Everything but charts is text, and escaped.
#[derive(Debug, Clone)]
pub struct Page {
    html: String,
}

impl Page {
    /// A page with its title as the first heading.
    #[must_use]
    pub fn new(title: &str) -> Self {
        let title = escaped(title);
        let head = format!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n\
             <title>{title}</title>\n<style>{STYLE}</style>\n<h1>{title}</h1>\n"
        );
        Self { html: head }
    }

    /// A heading of the second level.
    pub fn heading(&mut self, text: &str) {
        self.element("h2", text);
    }

    /// A paragraph.
    pub fn paragraph(&mut self, text: &str) {
        self.element("p", text);
    }

    /// Text as it stands, in a fixed pitch.
    pub fn preformatted(&mut self, text: &str) {
        self.element("pre", text);
    }

    /// A table; the first column is aligned to the left.
    pub fn table(&mut self, header: &[&str], rows: &[Vec<String>]) {
        let line = |tag: &str, cells: &mut dyn Iterator<Item = &str>| {
            let cells: String =
                cells.map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect();
            format!("<tr>{cells}</tr>\n")
        };
        self.html.push_str("<table>\n");
        self.html.push_str(&line("th", &mut header.iter().copied()));
        for row in rows {
            self.html.push_str(&line("td", &mut row.iter().map(String::as_str)));
        }
        self.html.push_str("</table>\n");
    }

    /// A picture drawn by this room.
    pub fn chart(&mut self, svg: &str) {
        // Infallible: a String takes everything.
        let _ = writeln!(self.html, "<figure>{svg}</figure>");
    }

    /// Pictures drawn by this room, beside each other where there is room.
    pub fn charts<'a>(&mut self, svgs: impl IntoIterator<Item = &'a String>) {
        self.html.push_str("<div class=\"charts\">\n");
        svgs.into_iter().for_each(|svg| self.chart(svg));
        self.html.push_str("</div>\n");
    }

    /// Small pictures in a row with words under each: PNG or JPEG files, put into the page.
    pub fn pictures(&mut self, row: &[(String, Vec<u8>)]) {
        use base64::Engine as _;
        self.html.push_str("<div class=\"row\">\n");
        for (caption, file) in row {
            let kind = if file.starts_with(b"\x89PNG") { "png" } else { "jpeg" };
            let data = base64::engine::general_purpose::STANDARD.encode(file);
            let caption = escaped(caption);
            let _ = writeln!(
                self.html,
                "<figure><img alt=\"{caption}\" src=\"data:image/{kind};base64,{data}\"><figcaption>{caption}</figcaption></figure>"
            );
        }
        self.html.push_str("</div>\n");
    }

    /// The whole page.
    #[must_use]
    pub fn finish(mut self) -> String {
        self.html.push_str("</html>\n");
        self.html
    }

    fn element(&mut self, tag: &str, text: &str) {
        let _ = writeln!(self.html, "<{tag}>{}</{tag}>", escaped(text));
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_nothing_is_loaded() {
        let mut page = Page::new("a <b>");
        page.heading("h & h");
        page.paragraph("<script>");
        page.table(&["name", "n"], &[vec!["<i>".to_owned(), "1".to_owned()]]);
        let html = page.finish();
        assert!(html.contains("<h1>a &lt;b&gt;</h1>") && html.contains("<h2>h &amp; h</h2>"));
        assert!(html.contains("<td>&lt;i&gt;</td><td>1</td>"));
        assert!(!html.contains("<script") && !html.contains(" src=") && !html.contains(" href="));
    }

    #[test]
    fn pictures_lie_in_the_page() {
        let mut page = Page::new("p");
        page.pictures(&[("a & b".to_owned(), b"\x89PNGx".to_vec())]);
        let html = page.finish();
        assert!(
            html.contains("src=\"data:image/png;base64,iVBOR3g=\"") && html.contains("a &amp; b")
        );
    }
}
