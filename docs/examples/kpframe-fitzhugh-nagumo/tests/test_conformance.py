from kpframe.testing import parametrize_with_checks


@parametrize_with_checks(["fitzhugh_nagumo", "fitzhugh_nagumo_sites"])
def test_conformance(check):
    check()
