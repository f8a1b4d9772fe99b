"""Data sets of the benchmarks, beside those that come with `aft.demo_data`."""

from data_sets.fetching import (
    DATA_SETS,
    fetch_amazon,
    fetch_clipart,
    fetch_clipart_titles,
    fetch_editorials,
    fetch_emoji,
    fetch_emoji_names,
    fetch_fashion,
    fetch_newsgroups,
    fetch_openmoji,
    fetch_sms,
    fetch_solar,
    fetch_stamps,
    fetch_stamps_captions,
    fetch_trec_fine,
    fetch_tweets,
)

__all__ = [
    "DATA_SETS",
    "fetch_amazon",
    "fetch_clipart",
    "fetch_clipart_titles",
    "fetch_editorials",
    "fetch_emoji",
    "fetch_emoji_names",
    "fetch_fashion",
    "fetch_newsgroups",
    "fetch_openmoji",
    "fetch_sms",
    "fetch_solar",
    "fetch_stamps",
    "fetch_stamps_captions",
    "fetch_trec_fine",
    "fetch_tweets",
]
