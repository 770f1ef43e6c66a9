"""Our statement comes into a policy and out of it; everybody else's stay."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from airflow_emr_etl.models.resource_policy import has_statement, with_statement, without_statement

OURS = {"Sid": "Ours", "Effect": "Allow"}
STATEMENTS = st.lists(
    st.fixed_dictionaries(
        {"Effect": st.just("Deny")}, optional={"Sid": st.text().filter(lambda sid: sid != "Ours")}
    )
)


def test_a_policy_of_its_own_where_there_is_none() -> None:
    assert json.loads(with_statement("", OURS)) == {"Version": "2012-10-17", "Statement": [OURS]}
    assert not has_statement("", "Ours")


def test_ours_is_replaced_and_not_added_again() -> None:
    policy = with_statement(with_statement("", OURS), {**OURS, "Effect": "Deny"})
    assert json.loads(policy)["Statement"] == [{**OURS, "Effect": "Deny"}]


@given(STATEMENTS)
def test_others_stay_as_they_are(theirs: list[dict[str, str]]) -> None:
    before = {"Version": "2008-10-17", "Id": "x", "Statement": theirs}
    policy = with_statement(json.dumps(before), OURS)
    assert json.loads(policy) == {**before, "Statement": [*theirs, OURS]}
    assert has_statement(policy, "Ours")
    after = without_statement(policy, "Ours")
    assert (json.loads(after) if after else {**before, "Statement": []}) == before
