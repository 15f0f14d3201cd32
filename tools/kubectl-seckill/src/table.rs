//! Columns for people.

pub struct Table {
    rows: Vec<Vec<String>>,
    /// Columns of figures, which are right-aligned.
    figures: Vec<usize>,
}

impl Table {
    pub fn new(header: &[&str], figures: &[usize]) -> Self {
        Table {
            rows: vec![header.iter().map(|name| (*name).to_owned()).collect()],
            figures: figures.to_vec(),
        }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows[0].len();
        let width = |column: usize| {
            self.rows
                .iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let cells = row.iter().enumerate().map(|(column, cell)| {
                let width = widths[column];
                match self.figures.contains(&column) {
                    true => format!("{cell:>width$}"),
                    false => format!("{cell:<width$}"),
                }
            });
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("   ").trim_end())?;
        }
        Ok(())
    }
}

/// A count with separators of thousands.
pub fn count(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_aligned_to_the_right() {
        let mut table = Table::new(&["NAME", "LEFT"], &[1]);
        table.row(vec!["phone".into(), count(12_345)]);
        table.row(vec!["headphones".into(), count(7)]);
        assert_eq!(
            table.to_string(),
            "NAME           LEFT\nphone        12,345\nheadphones        7\n"
        );
    }

    #[test]
    fn counts_have_separators() {
        let texts = [0, 999, 1000, 1_234_567, -1000].map(count);
        assert_eq!(texts, ["0", "999", "1,000", "1,234,567", "-1,000"]);
    }
}
