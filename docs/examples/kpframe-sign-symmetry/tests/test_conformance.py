from kpframe_sign_symmetry.rule import SignSymmetry

from kpframe.testing import parametrize_with_checks


def through_time_alone():
    return SignSymmetry(readout=False)


def of_one_size():
    return SignSymmetry(scale=0.3)


@parametrize_with_checks(["rule:sign_symmetry", through_time_alone, of_one_size], kind="rule")
def test_conformance(check):
    check()
