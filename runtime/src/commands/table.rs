//! Tables in runc's layout: columns at least twelve wide, three spaces between them.

const MIN_WIDTH: usize = 12;
const PADDING: usize = 3;

/// Lines of text from rows of cells; the first row is the header.
pub(super) fn render<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let mut widths = [MIN_WIDTH; COLUMNS];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count() + PADDING);
        }
    }
    let mut text = String::new();
    for row in rows {
        for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
            let width = if index + 1 == COLUMNS { 0 } else { width };
            text.push_str(&format!("{cell:<width$}"));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_cell_widens_its_column_and_the_last_is_not_padded() {
        let row = |a: &str, b: &str| [a.to_owned(), b.to_owned()];
        let text = render(&[row("ID", "OWNER"), row("a-long-container", "root")]);
        assert_eq!(text, "ID                 OWNER\na-long-container   root\n");
    }
}
