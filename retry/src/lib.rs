//! The retry service: verdicts by the rules, the delay wheel, dead-lettering.
