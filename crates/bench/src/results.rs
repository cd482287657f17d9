//! Figures of all rounds: medians, spreads, ratios; as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::peers::Target;

/// Values of one figure in all rounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// For machines.
    pub name: String,
    /// For people.
    pub unit: &'static str,
    /// One for each round.
    pub values: BTreeMap<Target, Vec<f64>>,
}

/// Of the values of one target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Of an even number of values the mean of the two in the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Figure {
    /// `None`: it was not measured.
    pub fn spread(&self, target: Target) -> Option<Spread> {
        let mut values = self.values.get(&target)?.clone();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Spread {
            median: f64::midpoint(low, high),
            min,
            max,
        })
    }

    fn median(&self, target: Target) -> Option<f64> {
        self.spread(target).map(|spread| spread.median)
    }

    /// Segue's median by another's.
    pub fn ratio(&self, to: Target) -> Option<f64> {
        let other = self.median(to)?;
        (other > 0.0).then_some(self.median(Target::Segue)? / other)
    }
}

/// Everything that a run has found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Results {
    /// In the order they were measured.
    pub figures: Vec<Figure>,
    /// Bytes or calls that went wrong, and peers that failed: one sentence each.
    pub faults: Vec<String>,
    /// Remarks that are no fault.
    pub notes: Vec<String>,
    /// What was measured, and of which version.
    pub targets: Vec<(Target, String)>,
    /// Peers that were asked for or are known, and are not there.
    pub missing: Vec<Target>,
    /// Before the name of each figure.
    pub prefix: &'static str,
}

impl Results {
    /// Whether every byte of every call came back.
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    pub(crate) fn add(&mut self, name: &str, unit: &'static str, target: Target, value: f64) {
        let name = format!("{}{name}", self.prefix);
        let known = self.figures.iter().position(|figure| figure.name == name);
        let index = known.unwrap_or_else(|| {
            self.figures.push(Figure {
                name,
                unit,
                values: BTreeMap::new(),
            });
            self.figures.len() - 1
        });
        let values = self.figures[index].values.entry(target).or_default();
        values.push(value);
    }

    /// `{figure: {segue, haproxy, nginx, envoy, relay}}`: medians, `null` where there is none.
    pub fn medians(&self) -> Value {
        let always = [
            Target::Segue,
            Target::Haproxy,
            Target::Nginx,
            Target::Envoy,
            Target::Relay,
        ];
        self.each(|figure| {
            let measured = figure.values.keys().copied();
            let all: std::collections::BTreeSet<Target> =
                always.into_iter().chain(measured).collect();
            let medians = all
                .into_iter()
                .map(|target| (target.name().to_owned(), json!(figure.median(target))));
            medians.collect()
        })
    }

    /// Everything else, for a machine.
    pub fn details(&self) -> Value {
        let spread = self.each(|figure| {
            let targets = figure.values.keys();
            let spreads = targets.filter_map(|target| {
                let Spread { median, min, max } = figure.spread(*target)?;
                let spread = json!({"median": median, "min": min, "max": max,
                    "values": figure.values[target]});
                Some((target.name().to_owned(), spread))
            });
            spreads.collect()
        });
        let versions = self.targets.iter();
        let versions: serde_json::Map<String, Value> = versions
            .map(|(target, version)| (target.name().to_owned(), json!(version)))
            .collect();
        let missing: Vec<&str> = self.missing.iter().map(|target| target.name()).collect();
        json!({
            "spread": spread,
            "versions": versions,
            "missing": missing,
            "faults": self.faults,
            "notes": self.notes,
        })
    }

    fn each(&self, of: impl Fn(&Figure) -> serde_json::Map<String, Value>) -> Value {
        let figures = self.figures.iter();
        let map: serde_json::Map<String, Value> = figures
            .map(|figure| (figure.name.clone(), Value::Object(of(figure))))
            .collect();
        Value::Object(map)
    }

    /// For people, and for a document.
    pub fn table(&self) -> String {
        let mut rows = Vec::new();
        let mut head = vec!["figure".to_owned()];
        head.extend(
            self.targets
                .iter()
                .map(|(target, version)| match version.as_str() {
                    "built in" => target.name().to_owned(),
                    version => format!("{} {version}", target.name()),
                }),
        );
        let ratios = [Target::Haproxy, Target::Relay].into_iter();
        let ratios: Vec<Target> = ratios
            .filter(|ratio| self.targets.iter().any(|(target, _)| target == ratio))
            .collect();
        head.extend(
            ratios
                .iter()
                .map(|ratio| format!("segue / {}", ratio.name())),
        );
        rows.push(head);
        for figure in &self.figures {
            let mut row = vec![format!(
                "{}, {}",
                figure.name.replace('_', " "),
                figure.unit
            )];
            for (target, _) in &self.targets {
                row.push(figure.spread(*target).map_or("-".to_owned(), words));
            }
            for ratio in &ratios {
                let ratio = figure.ratio(*ratio);
                row.push(ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}")));
            }
            rows.push(row);
        }
        let mut text = aligned(&rows);
        for target in &self.missing {
            let _ = write!(
                text,
                "\n{} is not installed, and was not measured.",
                target.name()
            );
        }
        for note in &self.notes {
            let _ = write!(text, "\nnote: {note}");
        }
        for fault in &self.faults {
            let _ = write!(text, "\nFAULT: {fault}");
        }
        text
    }
}

fn words(spread: Spread) -> String {
    let Spread { median, min, max } = spread;
    if min.total_cmp(&max).is_eq() {
        return number(median);
    }
    format!("{} ({}–{})", number(median), number(min), number(max))
}

/// Three digits that mean something.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Markdown that is read well as it is.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
    let mut lines = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        lines.push(format!("| {} |", cells.join(" | ")));
        if index == 0 {
            let bars: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            lines.push(format!("| {} |", bars.join(" | ")));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let mut results = Results::default();
        for (target, values) in [
            (Target::Segue, [3.0, 1.0, 8.0]),
            (Target::Haproxy, [4.0, 6.0, 5.0]),
        ] {
            results.targets.push((target, "1.0".to_owned()));
            for value in values {
                results.add("load300_cpu", "s", target, value);
            }
        }
        results
    }

    #[test]
    fn the_middle_counts_and_the_ends_are_told() {
        let results = results();
        let figure = &results.figures[0];
        let spread = figure.spread(Target::Segue).unwrap();
        let told = Spread {
            median: 3.0,
            min: 1.0,
            max: 8.0,
        };
        assert_eq!(spread, told);
        assert_eq!(figure.ratio(Target::Haproxy), Some(0.6));
        assert_eq!(figure.ratio(Target::Relay), None);
        let table = results.table();
        assert!(table.contains("3.00 (1.00–8.00)"), "{table}");
        assert!(table.contains("0.60"), "{table}");
    }

    #[test]
    fn a_machine_reads_one_number_for_each_target() {
        let medians = results().medians();
        let figure = &medians["load300_cpu"];
        assert_eq!(figure["segue"], 3.0);
        assert_eq!(figure["haproxy"], 5.0);
        assert!(figure["nginx"].is_null() && figure["envoy"].is_null());
        assert!(figure.as_object().unwrap().contains_key("relay"));
    }
}
