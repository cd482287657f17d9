//! Times of everything between a nanosecond and centuries, in 60 KiB and within one percent.
//!
//! Each power of two is cut into 128 equal parts, as in the HDR histogram. Recording is an addition;
//! nothing is allocated while something is measured.

/// Parts of a power of two, as a power of two: seven bits keep every value within 0.8 %.
const PART_BITS: u32 = 7;
const PARTS: u64 = 1 << PART_BITS;
const CELLS: usize = ((64 - PART_BITS + 1) * (1 << PART_BITS)) as usize;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    cells: Vec<u64>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            cells: vec![0; CELLS],
            count: 0,
            max: 0,
        }
    }
}

impl Histogram {
    /// Counts one value.
    pub(crate) fn record(&mut self, value: u64) {
        self.cells[cell(value)] += 1;
        self.count += 1;
        self.max = self.max.max(value);
    }

    /// How many were recorded.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The largest one, exactly.
    pub(crate) fn max(&self) -> u64 {
        self.max
    }

    /// The value that `parts_per_10_000` of all are at or below: 9 900 is the 99th percentile. 0 if
    /// there is none.
    pub(crate) fn percentile(&self, parts_per_10_000: u64) -> u64 {
        let rank = (self.count * parts_per_10_000).div_ceil(10_000).max(1);
        let mut seen = 0;
        for (index, cell) in self.cells.iter().enumerate() {
            seen += cell;
            if seen >= rank {
                return highest(index).min(self.max);
            }
        }
        self.max
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.cells.fill(0);
        self.count = 0;
        self.max = 0;
    }
}

fn cell(value: u64) -> usize {
    if value < PARTS {
        return usize::try_from(value).expect("below 128");
    }
    let exponent = value.ilog2() - PART_BITS;
    let part = (value >> exponent) - PARTS;
    usize::try_from(u64::from(exponent + 1) * PARTS + part).expect("there are a few thousand cells")
}

/// The largest value of a cell.
fn highest(index: usize) -> u64 {
    let index = index as u64;
    if index < PARTS {
        return index;
    }
    let exponent = index / PARTS - 1;
    let base = u128::from(PARTS + index % PARTS + 1) << exponent;
    u64::try_from(base - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_at_most_one_percent_off() {
        for shift in 0..63 {
            for part in [0, 1, 3, 77] {
                let value = (1_u64 << shift) + part * ((1 << shift) / 100);
                let told = highest(cell(value));
                assert!(told >= value, "{value} {told}");
                assert!(told - value <= value / 100, "{value} {told}");
            }
        }
        assert_eq!(highest(cell(u64::MAX)), u64::MAX);
    }

    #[test]
    fn percentiles_are_those_of_a_sorted_list() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(5_000), 0);
        (1..=100).for_each(|value| histogram.record(value));
        assert_eq!(histogram.percentile(5_000), 50);
        assert_eq!(histogram.percentile(9_900), 99);
        assert_eq!(histogram.percentile(10_000), 100);
        assert_eq!((histogram.count(), histogram.max()), (100, 100));
        histogram.clear();
        assert_eq!((histogram.count(), histogram.max()), (0, 0));
    }
}
