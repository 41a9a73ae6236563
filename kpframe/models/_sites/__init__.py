"""``SiteModel``: weight sites and a pointwise function; the structure of A, J and K is derived."""
