//! Tables of text that stay within a terminal's width by shortening the cells that can
//! bear it.

/// Characters that a line has at most, where the columns can be made to fit.
pub(super) const WIDTH: usize = 100;
/// Characters to which an elastic column is shortened at most: less of a name tells nobody
/// which one it is.
const NARROWEST: usize = 16;
/// Between two columns.
const GAP: &str = "  ";

/// How a column is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// To the left, and shortened in the middle when the line is too long.
    Elastic,
    /// To the left, always whole: what a person copies from it, or tells two rows apart by.
    Whole,
    /// Several entries with commas between them, to the left and whole. Where the line is too
    /// long they stand below each other.
    List,
    /// To the right, always whole.
    Number,
}

/// Sets `rows` under the titles. Every row has as many cells as there are columns.
pub(super) fn render<'a>(columns: &[(&str, Kind)], rows: &'a [Vec<String>]) -> String {
    let whole = |row: &'a Vec<String>| row.iter().map(String::as_str).collect();
    let mut lines: Vec<Vec<&str>> = rows.iter().map(whole).collect();
    let mut widths = needed(columns, &lines);
    if is_too_long(&widths) {
        lines = rows.iter().flat_map(|row| stack(columns, row)).collect();
        widths = fit(columns, needed(columns, &lines));
    }
    let mut out = String::new();
    let titles = columns.iter().map(|(title, _)| *title);
    line(&mut out, columns, &widths, titles);
    for cells in lines {
        line(&mut out, columns, &widths, cells.into_iter());
    }
    out
}

/// The lines of a row, with the entries of its lists below each other.
fn stack<'a>(columns: &[(&str, Kind)], row: &'a [String]) -> Vec<Vec<&'a str>> {
    let entries = |((_, kind), cell): (&(&str, Kind), &'a String)| match kind {
        Kind::List => cell.split(',').collect(),
        Kind::Elastic | Kind::Whole | Kind::Number => vec![cell.as_str()],
    };
    let entries: Vec<_> = columns.iter().zip(row).map(entries).collect();
    let height = entries.iter().map(Vec::len).max().unwrap_or(0);
    let line = |n| {
        entries
            .iter()
            .map(move |it| it.get(n).copied().unwrap_or_default())
    };
    (0..height).map(|n| line(n).collect()).collect()
}

/// The width of each column: that of its longest cell.
fn needed(columns: &[(&str, Kind)], lines: &[Vec<&str>]) -> Vec<usize> {
    let mut widths: Vec<usize> = columns.iter().map(|(title, _)| length(title)).collect();
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(length(cell));
        }
    }
    widths
}

fn is_too_long(widths: &[usize]) -> bool {
    let gaps = GAP.len() * widths.len().saturating_sub(1);
    widths.iter().sum::<usize>() + gaps > WIDTH
}

/// The widths, less what the line is too long by.
fn fit(columns: &[(&str, Kind)], mut widths: Vec<usize>) -> Vec<usize> {
    while is_too_long(&widths) {
        let widest = columns
            .iter()
            .zip(&mut widths)
            .filter(|((title, kind), width)| {
                *kind == Kind::Elastic && **width > NARROWEST.max(length(title))
            })
            .map(|(_, width)| width)
            .max_by_key(|width| **width);
        match widest {
            Some(width) => *width -= 1,
            None => break,
        }
    }
    widths
}

fn line<'a>(
    out: &mut String,
    columns: &[(&str, Kind)],
    widths: &[usize],
    cells: impl Iterator<Item = &'a str>,
) {
    let start = out.len();
    for (place, ((cell, &width), (_, kind))) in cells.zip(widths).zip(columns).enumerate() {
        if place > 0 {
            out.push_str(GAP);
        }
        let cell = shorten(cell, width);
        match kind {
            Kind::Number => out.push_str(&format!("{cell:>width$}")),
            Kind::Elastic | Kind::Whole | Kind::List => out.push_str(&format!("{cell:<width$}")),
        }
    }
    let end = start + out[start..].trim_end().len();
    out.truncate(end);
    out.push('\n');
}

/// Leaves both ends of a cell: what tells two names apart is at either.
fn shorten(cell: &str, width: usize) -> String {
    // A cell's text may come from a peer or a file: it must not move the cursor.
    let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let count = length(cell);
    if count <= width {
        return cell.chars().map(shown).collect();
    }
    let head = (width - 1).div_ceil(2);
    let tail = width - 1 - head;
    let start = cell.chars().take(head).map(shown);
    let end = cell.chars().skip(count - tail).map(shown);
    start.chain(['…']).chain(end).collect()
}

fn length(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn columns_are_as_wide_as_their_cells_and_numbers_stand_right() {
        let columns = [
            ("NAME", Kind::Elastic),
            ("SIZE", Kind::Number),
            ("X", Kind::Whole),
        ];
        let table = render(
            &columns,
            &[row(&["a", "1 B", "yes"]), row(&["longer", "12 KiB", ""])],
        );
        assert_eq!(
            table,
            "NAME      SIZE  X\n\
             a          1 B  yes\n\
             longer  12 KiB\n"
        );
    }

    #[test]
    fn long_cells_are_shortened_in_the_middle_until_the_line_fits() {
        let columns = [
            ("A", Kind::Elastic),
            ("B", Kind::Whole),
            ("C", Kind::Elastic),
        ];
        let long = format!("{}{}", "start".repeat(10), "end".repeat(10));
        let table = render(&columns, &[row(&[&long, "whole", &long])]);
        let line = table.lines().nth(1).unwrap();
        assert_eq!(line.chars().count(), WIDTH);
        assert!(line.starts_with("start") && line.ends_with("end"), "{line}");
        assert_eq!(line.matches('…').count(), 2);
    }

    #[test]
    fn what_cannot_be_shortened_is_left_whole() {
        let long = "w".repeat(150);
        let table = render(&[("W", Kind::Whole)], &[row(&[&long])]);
        assert!(table.contains(&long));
    }

    #[test]
    fn a_list_is_stacked_where_the_line_would_be_too_long_and_only_there() {
        let columns = [("A", Kind::Whole), ("L", Kind::List), ("N", Kind::Number)];
        let short = row(&["a", "10.0.0.1,fd00::1", "7"]);
        let table = render(&columns, std::slice::from_ref(&short));
        assert_eq!(table.lines().nth(1), Some("a  10.0.0.1,fd00::1  7"));
        let name = "n".repeat(90);
        let table = render(
            &columns,
            &[
                row(&[&name, "10.0.0.1,fd00::1", "8"]),
                row(&["b", "", ""]),
                short,
            ],
        );
        let lines: Vec<_> = table.lines().map(str::trim_end).collect();
        assert_eq!(lines[1], format!("{name}  10.0.0.1  8"));
        assert_eq!(lines[2], format!("{:90}  fd00::1", ""));
        assert_eq!(lines[3], "b");
        assert_eq!(lines[5].trim(), "fd00::1");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let table = render(&[("N", Kind::Elastic)], &[row(&["\u{1b}[2Jx"])]);
        assert!(!table.contains('\u{1b}'), "{table:?}");
    }
}
