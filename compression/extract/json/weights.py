"""Weights of JSON."""

from dataclasses import dataclass

from ..core.base_weights import weight
from ..core.outliers import OutlierWeights


@dataclass(frozen=True, slots=True)
class JsonWeights(OutlierWeights):
    """Weights of JSON."""

    min_score: float = weight(0.15, "a value worth its tokens; times the root of its rank among those of its row")
    marker_cost: int = weight(0, "budget that the marker of a gap uses", "characters")
    outline_share: float = weight(0.8, "characters of the selection; its labels take the others", "share of budget")
    sibling_weight: float = weight(0.5, "part of its object's best score that a value gains", "factor")
    key_weight: float = weight(0.5, "part of the score of the keys above it that a value gains", "factor")
    level_decay: float = weight(0.85, "these gains at each further level", "factor")
    first_bonus: float = weight(0.15, "the first element of an array")
    last_bonus: float = weight(0.1, "the last element of an array")
    edge_decay: float = weight(0.7, "these bonuses at each further level", "factor")
    length_penalty: float = weight(0.1, "a value of 1000 characters or more")
    outlier_bonus: float = weight(0.45, "an error or an outlier")
    summary_bonus: float = weight(0.8, "a short scalar of the outermost object")
    min_summarized_values: int = weight(20, "values for each member of an outermost object with such scalars", "values")
    max_summary_characters: int = weight(120, "a short scalar with its key, at most", "characters")
    severe_bonus: float = weight(1.0, "a short value of one of the few rows with the worst severity")
    max_severe_characters: int = weight(300, "such a value with its key, at most", "characters")
    identity_weight: float = weight(0.95, "part of a row's best score that its id and its name gain", "factor")
    max_identity_values: int = weight(4, "such members of a row, at most", "values")
    path_bonus: float = weight(0.5, "a value on a path in the question, if such values are many")
    max_required_values: int = weight(40, "values on a path in the question that are all kept", "values")
    shared_factor: float = weight(0.3, "a value that nearly all rows have, besides the first one", "factor")
    shared_match_factor: float = weight(0.5, "the same, if it matches the question", "factor")
    min_shared_share: float = weight(0.8, "rows with such a value", "share of rows")
    asked_bonus: float = weight(1.0, "the greatest or the least value of a field, if asked for")
    asked_values: int = weight(3, "values with this bonus", "values")
    max_missing_share: float = weight(0.1, "rows without a field that the others have, at most", "share of rows")
    max_rare_share: float = weight(0.05, "rows with a field that the others lack, at most", "share of rows")
    min_compared_rows: int = weight(3, "rows that are compared with one another", "rows")
