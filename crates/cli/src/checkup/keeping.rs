//! Whether live calls would outlive their gateway.

use segue_controller::platform::process::Handle;
use segue_gateway::keeper::{Figures, census};

use super::{Findings, Patient};
use crate::supervise::keeper;

pub(super) fn check(patient: &Patient) -> Findings {
    let mut found = Findings::of("keeper");
    let home = &patient.home;
    let gateway = Handle::adopt(&home.run().join("gateway.json"));
    if !matches!(gateway, Ok(Some(_))) {
        return found;
    }
    let live = patient.status.as_ref().map(|status| {
        let live = status.agents.iter().map(|agent| agent.live);
        live.sum()
    });
    match census(&keeper::socket(home)) {
        Ok(figures) => judge(&figures, live, &mut found),
        Err(error) => found.warn(
            format!("calls kept: none: {error}; they would end with a gateway that crashes"),
            "`segue serve` keeps them as long as it runs",
        ),
    }
    found
}

fn judge(figures: &Figures, live: Option<u64>, found: &mut Findings) {
    let held = figures.held;
    let kept = live.map_or_else(
        || format!("calls kept: {held}"),
        // Both are asked one after the other, and calls come and go.
        |live| format!("calls kept: {held} of {}", live.max(held)),
    );
    if figures.gateways == 0 {
        found.warn(
            "calls kept: none: no gateway keeps its calls here",
            "`segue logs gateway` says why; one of another version is kept after `segue upgrade`",
        );
    } else if figures.unheld > 0 {
        let unheld = figures.unheld;
        found.warn(
            format!("{kept}; {unheld} so far could not be, for want of descriptors"),
            "raise the limit of open files of `segue serve`: two for each call, as its gateway has",
        );
    } else {
        found.ok(kept);
    }
    if figures.orphaned > 0 {
        let orphaned = figures.orphaned;
        found.warn(
            format!("{orphaned} calls wait for a gateway to go on"),
            "`segue logs gateway` says why none starts",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn said(figures: Figures, live: Option<u64>) -> Vec<(Level, String)> {
        let mut found = Findings::of("keeper");
        judge(&figures, live, &mut found);
        let all = found.all.into_iter();
        all.map(|finding| (finding.level, finding.what)).collect()
    }

    #[test]
    fn what_is_kept_is_said_and_what_is_not_is_warned_of() {
        let figures = Figures {
            held: 7,
            gateways: 1,
            ..Figures::default()
        };
        let ok = |text: &str| vec![(Level::Ok, text.to_owned())];
        assert_eq!(said(figures, Some(9)), ok("calls kept: 7 of 9"));
        assert_eq!(said(figures, Some(5)), ok("calls kept: 7 of 7"));
        assert_eq!(said(figures, None), ok("calls kept: 7"));
        for figures in [
            Figures::default(),
            Figures {
                unheld: 1,
                ..figures
            },
        ] {
            assert_eq!(said(figures, None)[0].0, Level::Warn, "{figures:?}");
        }
        let waiting = Figures {
            orphaned: 2,
            ..figures
        };
        assert_eq!(said(waiting, None).len(), 2);
    }
}
