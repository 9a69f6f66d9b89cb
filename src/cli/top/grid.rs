//! A table that leaves out columns where the terminal is too narrow for all.

use ratatui::{
    style::{Modifier, Style},
    text::{Line, Span},
};

/// Between two columns.
const GAP: usize = 2;

/// A column.
pub(super) struct Column {
    /// What stands above it.
    pub(super) head: String,
    /// Does it hold words, which stand to the left? Numbers stand to the right.
    pub(super) words: bool,
    /// The column with the highest number is left out first; one with 0 never is.
    pub(super) rank: u8,
    /// It is at least so wide, so that it does not jump when a number gets another digit.
    pub(super) least: usize,
}

impl Column {
    /// A column of words.
    pub(super) fn words(head: impl Into<String>, rank: u8, least: usize) -> Self {
        Self {
            head: head.into(),
            words: true,
            rank,
            least,
        }
    }

    /// A column of numbers.
    pub(super) fn numbers(head: impl Into<String>, rank: u8, least: usize) -> Self {
        Self {
            words: false,
            ..Self::words(head, rank, least)
        }
    }

    fn width(&self, rows: &[Vec<Span<'_>>], i: usize) -> usize {
        let cells = rows.iter().filter_map(|row| row.get(i));
        let widest = cells.map(Span::width).max().unwrap_or(0);
        widest.max(self.head.chars().count()).max(self.least)
    }
}

/// The head and the rows, none wider than `width` as long as that can be had by leaving out columns.
/// Each row holds a cell for each column, and may hold one more, which gets what room is left; `more`
/// makes it.
pub(super) fn lines(
    columns: &[Column],
    rows: &[Vec<Span<'static>>],
    width: usize,
    more: impl Fn(usize, usize) -> Option<Span<'static>>,
) -> (Line<'static>, Vec<Line<'static>>) {
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(i, column)| column.width(rows, i))
        .collect();
    let shown = that_fit(columns, &widths, width);
    let used: usize = shown.iter().map(|i| widths[*i] + GAP).sum();
    let head = shown.iter().map(|i| {
        let style = Style::new().add_modifier(Modifier::BOLD);
        (Span::styled(columns[*i].head.clone(), style), *i)
    });
    let head = Line::from(padded(head, columns, &widths));
    let body = rows.iter().enumerate().map(|(row, cells)| {
        let cells = shown.iter().map(|i| (cells[*i].clone(), *i));
        let mut spans = padded(cells, columns, &widths);
        spans.extend(more(row, width.saturating_sub(used)));
        Line::from(spans)
    });
    (head, body.collect())
}

fn that_fit(columns: &[Column], widths: &[usize], width: usize) -> Vec<usize> {
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    loop {
        let needed: usize = shown.iter().map(|i| widths[*i] + GAP).sum();
        let dropped = shown
            .iter()
            .enumerate()
            .max_by_key(|(_, i)| columns[**i].rank);
        match dropped {
            Some((at, i)) if needed > width + GAP && columns[*i].rank > 0 => _ = shown.remove(at),
            _ => return shown,
        }
    }
}

fn padded(
    cells: impl Iterator<Item = (Span<'static>, usize)>,
    columns: &[Column],
    widths: &[usize],
) -> Vec<Span<'static>> {
    let mut spans = Vec::new();
    for (cell, i) in cells {
        let room = Span::raw(" ".repeat(widths[i].saturating_sub(cell.width())));
        if columns[i].words {
            spans.extend([cell, room]);
        } else {
            spans.extend([room, cell]);
        }
        spans.push(Span::raw(" ".repeat(GAP)));
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(width: usize) -> Vec<String> {
        let columns = [
            Column::words("NAME", 0, 0),
            Column::numbers("MANY", 2, 6),
            Column::numbers("FEW", 1, 0),
        ];
        let row = |cells: [&str; 3]| cells.map(|cell| Span::raw(cell.to_owned())).to_vec();
        let rows = [row(["a", "1", "22"]), row(["longer", "3", "4"])];
        let bar = |_, room| (room >= 3).then(|| Span::raw("#".repeat(room)));
        let (head, body) = lines(&columns, &rows, width, bar);
        let all = std::iter::once(head).chain(body);
        all.map(|line| line.to_string().trim_end().to_owned())
            .collect()
    }

    #[test]
    fn columns_go_by_their_rank() {
        assert_eq!(
            shown(24),
            [
                "NAME      MANY  FEW",
                "a            1   22  ###",
                "longer       3    4  ###"
            ]
        );
        assert_eq!(
            shown(19),
            [
                "NAME      MANY  FEW",
                "a            1   22",
                "longer       3    4"
            ]
        );
        assert_eq!(shown(18)[..2], ["NAME    FEW", "a        22  #####"]);
        assert_eq!(shown(10)[2], "longer");
        assert_eq!(shown(0)[2], "longer");
    }
}
