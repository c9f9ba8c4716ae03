"""The novel classes of the published few-shot splits of Pascal VOC (Kang et al., ICCV 2019; Wang et al., ICML 2020)."""

from __future__ import annotations

NOVEL_CLASSES = {
    "voc_split1": ("bird", "bus", "cow", "motorbike", "sofa"),
    "voc_split2": ("aeroplane", "bottle", "cow", "horse", "sofa"),
    "voc_split3": ("boat", "cat", "motorbike", "sheep", "sofa"),
}
