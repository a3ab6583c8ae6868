//! What a gate goes by: a plain threshold, or a promise and the certificate that keeps it.
//!
//! A certificate speaks of the answers it was made on only ([`super::Key`]), so what a gate goes by
//! is found out for each request: [`Accept::ruling`]. Promises: where nothing certified speaks of
//! the request, the ruling says why, and accepts by the operator's own fallback or not at all. Made
//! by `policy`, stands in a plan, asked by `execute` once per stage.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::gap::Value;
use super::running::decimal;
use super::{Auditing, Basis, Bell, Calibration, Certificate, Judge, Ledger, Risk, Uncertified, auditing};
use crate::request::Request;

/// Names in headers.
pub(super) const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Half a unit in the last place that anybody writes: 1 − 0.9 is not exactly 0.1.
const ROUNDING: f64 = 1e-9;

/// What a gate goes by.
#[derive(Debug, Clone, PartialEq)]
pub enum Accept {
    /// A threshold; nothing is promised.
    Threshold(Judge),
    /// A promise.
    Promise {
        /// What keeps it; an error says why nothing does, whatever the request.
        granted: Result<Arc<Grant>, Uncertified>,
        /// Who accepts where nothing certified speaks of a request; `None`: nobody.
        otherwise: Option<Judge>,
    },
    /// Whether an escalation is worth its price; nothing is promised.
    Value(Value),
}

/// A certificate in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    /// Where it stands.
    pub calibration: Arc<Calibration>,
    /// What is promised.
    pub certificate: Certificate,
    /// Accepts from the certified threshold on.
    pub judge: Judge,
    /// How it is audited, where it is.
    pub audit: Option<Auditing>,
    /// The alarm of the labels it was made of.
    pub alarm: Bell,
}

/// What stands behind an answer that a promise was asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Standing {
    /// The certificate by which it was kept.
    Certified(Arc<Grant>),
    /// Nothing.
    Uncertified(Uncertified),
}

/// What a gate goes by for one request.
#[derive(Debug, Clone)]
pub struct Ruling<'a> {
    /// Accepts or refuses; an error: nothing is accepted, and why.
    pub judge: Result<Cow<'a, Judge>, Uncertified>,
    /// What stands behind an answer accepted; `None`: no promise was asked for.
    pub standing: Option<Standing>,
}

impl Accept {
    /// What the gate goes by for this request, when it judges after `hold_back` tokens (`None`: the
    /// whole answer). One that decides by value is told here what holds where nothing costs anything:
    /// [`Value::judge`] knows of prices.
    pub fn ruling(&self, request: &Request, hold_back: Option<usize>) -> Ruling<'_> {
        let (granted, otherwise) = match self {
            Accept::Threshold(judge) => return Ruling { judge: Ok(Cow::Borrowed(judge)), standing: None },
            Accept::Value(value) => return Ruling { judge: Ok(Cow::Owned(value.judge(request, 0.0))), standing: None },
            Accept::Promise { granted, otherwise } => (granted, otherwise),
        };
        let spoken_of = granted.as_ref().map_err(|why| *why).and_then(|grant| {
            grant.calibration.key.check(request, hold_back)?;
            grant.objection().map_or(Ok(grant), Err)
        });
        match spoken_of {
            Ok(grant) => Ruling {
                judge: Ok(Cow::Borrowed(&grant.judge)),
                standing: Some(Standing::Certified(Arc::clone(grant))),
            },
            Err(why) => Ruling {
                judge: otherwise.as_ref().map(Cow::Borrowed).ok_or(why),
                standing: Some(Standing::Uncertified(why)),
            },
        }
    }
}

impl Accept {
    /// What a promising gate goes by where other answers are kept than the certified rule would keep: for
    /// this reason nothing stands behind them. `None`: it promises nothing.
    pub fn without_promise(&self, why: Uncertified) -> Option<Ruling<'_>> {
        let Accept::Promise { otherwise, .. } = self else { return None };
        let judge = otherwise.as_ref().map(Cow::Borrowed).ok_or(why);
        Some(Ruling { judge, standing: Some(Standing::Uncertified(why)) })
    }

    /// The certificate that a promise is kept by.
    pub fn grant(&self) -> Option<&Arc<Grant>> {
        match self {
            Accept::Promise { granted: Ok(grant), .. } => Some(grant),
            Accept::Promise { .. } | Accept::Threshold(_) | Accept::Value(_) => None,
        }
    }
}

impl Grant {
    /// The certificate of the lowest threshold among those that bound `risk` by `alpha` or less with
    /// probability `confidence` or more; `None` where there is none.
    pub fn find(calibration: &Arc<Calibration>, risk: Risk, alpha: f64, confidence: f64) -> Option<Grant> {
        let keeps = |certificate: &&Certificate| {
            certificate.kind == risk
                && certificate.alpha <= alpha + ROUNDING
                && certificate.delta <= 1.0 - confidence + ROUNDING
        };
        let lowest =
            calibration.certificates.iter().filter(keeps).min_by(|a, b| a.threshold.total_cmp(&b.threshold))?;
        let judge = Judge::calibrated(Arc::clone(calibration), lowest.threshold);
        let (calibration, certificate) = (Arc::clone(calibration), lowest.clone());
        Some(Grant { calibration, certificate, judge, audit: None, alarm: Bell::default() })
    }

    /// The ledger of its audits, where one is kept.
    pub fn ledger(&self) -> Option<&Arc<Ledger>> {
        self.audit.as_ref()?.ledger()
    }

    /// Why nothing is kept under it now, whatever is asked.
    fn objection(&self) -> Option<Uncertified> {
        if self.alarm.rings() { Some(Uncertified::Alarmed) } else { self.ledger()?.objection() }
    }

    /// Whether it bounds errors, and not the disagreement with a grader.
    pub fn bounds_errors(&self) -> bool {
        self.calibration.basis == Basis::Gold
    }
}

impl Standing {
    /// Whether nothing stands behind the answer.
    pub fn is_wanting(&self) -> bool {
        matches!(self, Standing::Uncertified(_))
    }
}

/// `max_error=0.05 confidence=0.9 slice=NAME`, or `max_disagreement=… with=GRADER …`; names
/// percent-encoded, `risk=…` where it is not the selective one; `error_at_most=… error_confidence=…` where known
/// answers bound the error too; then, where it is audited, what is
/// measured, by whom, and above which rate of that there is an alarm.
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Grant { calibration, certificate, .. } = self;
        let what = if self.bounds_errors() { "max_error" } else { "max_disagreement" };
        write!(f, "{what}={}", decimal(certificate.alpha))?;
        if let Some(grader) = &calibration.grader {
            write!(f, " with={}", utf8_percent_encode(grader, NAME))?;
        }
        if certificate.kind != Risk::Selective {
            write!(f, " risk={}", certificate.kind.name())?;
        }
        let slice = utf8_percent_encode(&calibration.slice, NAME);
        write!(f, " confidence={} slice={slice}", decimal(1.0 - certificate.delta))?;
        if let Some(error) = &certificate.error {
            write!(f, " error_at_most={} error_confidence={}", decimal(error.at_most), decimal(1.0 - error.delta))?;
        }
        self.audit.as_ref().map_or(Ok(()), |audit| auditing::tell(self, audit, f))
    }
}

/// The value of the header `x-weir-certificate`.
impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Standing::Certified(grant) => grant.fmt(f),
            Standing::Uncertified(why) => write!(f, "uncertified; why={}", why.name()),
        }
    }
}
