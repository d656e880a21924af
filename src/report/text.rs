/// A table in Markdown. Cells are text: what would end a cell or a line does not.
#[must_use]
pub fn markdown_table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = line(&mut header.iter().copied());
    text.push_str(&format!("|{}\n", "---|".repeat(header.len())));
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

fn line(cells: &mut dyn Iterator<Item = &str>) -> String {
    let cells: Vec<String> =
        cells.map(|cell| cell.replace('|', "\\|").replace(['\n', '\r'], " ")).collect();
    format!("| {} |\n", cells.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_stays_a_cell_whatever_it_says() {
        let rows = [vec!["a|b.jpg".to_owned(), "cut\noff".to_owned()]];
        let table = markdown_table(&["file", "problem"], &rows);
        assert_eq!(table, "| file | problem |\n|---|---|\n| a\\|b.jpg | cut off |\n");
    }
}
