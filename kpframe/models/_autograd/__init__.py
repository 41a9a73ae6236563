"""The forms of A, J, P and Phi that any model gets, by automatic differentiation."""
