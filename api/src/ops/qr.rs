//! A QR code as a drawing, for the camera of a telephone.

use qrcode::{Color, EcLevel, QrCode};

use super::fault::Fault;

/// What the standard leaves free around the code, in modules; cameras need it.
const QUIET: usize = 4;

/// Dark squares on white, whatever colours the page has: cameras read few codes the other way round.
pub struct Picture {
    /// Of the square that it is in, with what is free around it.
    pub size: usize,
    /// The dark modules, as the path of an SVG.
    pub path: String,
}

impl Picture {
    /// Of this text.
    ///
    /// # Errors
    /// The text is too long, which is a mistake of ours.
    pub fn of(text: &str) -> Result<Self, Fault> {
        let code = QrCode::with_error_correction_level(text, EcLevel::M).map_err(Fault::internal)?;
        let width = code.width();
        let modules = code.to_colors();
        let rows = modules.chunks(width).enumerate();
        let runs = rows.flat_map(|(y, row)| dark_runs(row).map(move |(x, length)| (x, y, length)));
        let path = runs
            .map(|(x, y, length)| format!("M{} {}h{length}v1h-{length}z", x + QUIET, y + QUIET))
            .collect();
        Ok(Self {
            size: width + 2 * QUIET,
            path,
        })
    }
}

/// Where dark modules that stand side by side begin, and how many there are.
fn dark_runs(row: &[Color]) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0;
    row.chunk_by(|left, right| left == right).filter_map(move |run| {
        let begins = at;
        at += run.len();
        (run.first() == Some(&Color::Dark)).then_some((begins, run.len()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The modules of a drawing, row by row: true where it is dark.
    fn drawn(picture: &Picture) -> Vec<Vec<bool>> {
        let mut modules = vec![vec![false; picture.size]; picture.size];
        for run in picture.path.split_terminator('z') {
            let (place, shape) = run.strip_prefix('M').unwrap().split_once('h').unwrap();
            let (x, y) = place.split_once(' ').unwrap();
            let (x, y): (usize, usize) = (x.parse().unwrap(), y.parse().unwrap());
            let (length, back) = shape.split_once("v1h-").unwrap();
            assert_eq!(length, back);
            modules[y][x..x + length.parse::<usize>().unwrap()].fill(true);
        }
        modules
    }

    #[test]
    fn a_reader_reads_what_was_written() {
        let url =
            "otpauth://totp/Roost:ada.lovelace%40ops.example.com?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=Roost";
        let picture = Picture::of(url).unwrap();
        let modules = drawn(&picture);
        let inner = picture.size - 2 * QUIET;
        let edge = |at: usize| at < QUIET || at >= QUIET + inner;
        for (y, row) in modules.iter().enumerate() {
            for (x, dark) in row.iter().enumerate() {
                assert!(!dark || !(edge(x) || edge(y)), "{x} {y} is in the quiet zone");
            }
        }
        let grid = rqrr::SimpleGrid::from_func(inner, |x, y| modules[y + QUIET][x + QUIET]);
        let (_, text) = rqrr::Grid::new(grid).decode().unwrap();
        assert_eq!(text, url);
    }
}
