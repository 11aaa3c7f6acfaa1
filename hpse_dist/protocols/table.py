"""The table of protocols."""

from __future__ import annotations

from hpse_dist.body.joints import COCO17, FREIHAND21, H36M17, MANO21, MPI17, SMPL24
from hpse_dist.protocols.base import Protocol

_LSP14 = tuple(joint for joint in H36M17 if joint not in ("pelvis", "spine", "nose"))
_H36M_REGRESSOR = "J_regressor_h36m (17 x 6890), as SPIN distributes it"
_AP = ("ap", "ap_50", "ap_75", "ap_medium", "ap_large", "ar")
_DENSE = ("gps_ap", "gps_ap_50", "gps_ap_75", "gpsm_ap", "gpsm_ap_50", "gpsm_ap_75")
_NOT_FOUND = "a person without a prediction lowers recall, a prediction without a person precision"
_NO_POINT = (
    "; a point where the prediction shows no body has similarity 0, and people without an "
    "annotated point are not counted"
)
# normalisers of dense pose's evaluation, metres: torso, hand, foot, upper leg, lower leg, upper
# arm, lower arm, head; and which of them each of its 24 parts takes
_COARSE = (0.351, 0.107, 0.126, 0.237, 0.173, 0.142, 0.128, 0.150)
_COARSE_OF_PART = (0, 0, 1, 1, 2, 2, *(3,) * 4, *(4,) * 4, *(5,) * 4, *(6,) * 4, 7, 7)

_BODY = (
    Protocol(
        "synthetic-24",
        "body",
        ("pa_mpjpe", "mpjpe", "pve"),
        "This project's own: the joints of the body that the labels pose. On collections with "
        "exact labels it is exact; not comparable with figures of regressed joints.",
        joint_set="smpl24",
        joints=SMPL24,
        root="pelvis",
        alignment="similarity without mirror images for PA figures",
        truth="the labelled body, neutral",
    ),
    Protocol(
        "3dpw-14",
        "body",
        ("pa_mpjpe", "mpjpe", "pve"),
        "3DPW's test split as SPIN judges it: Human3.6M's joints regressed from both meshes. HMR "
        "2.0 judges other joints from another pelvis, so its figures are of another protocol. Its "
        "gendered meshes are no collection's: ground truth for it is a file of one's own.",
        joint_set="h36m17",
        joints=_LSP14,
        root="pelvis",
        regressor=_H36M_REGRESSOR,
        alignment="similarity without mirror images for PA figures",
        truth="gendered SMPL; the prediction is neutral",
        vertices=6890,
    ),
    Protocol(
        "3dpw-challenge",
        "body",
        ("pa_mpjpe", "mpjpe"),
        "The evaluation server of the 3DPW challenge: SMPL's own 24 joints, without a regressor.",
        joint_set="smpl24",
        joints=SMPL24,
        root="pelvis",
        alignment="similarity without mirror images for PA figures",
        truth="gendered SMPL, in the camera's frame",
        layout="3dpw",
    ),
    Protocol(
        "h36m-p1",
        "body",
        ("mpjpe", "n_mpjpe"),
        "Human3.6M protocol 1: subjects 9 and 11, all four cameras, all 17 joints with the root.",
        joint_set="h36m17",
        joints=H36M17,
        root="pelvis",
        alignment="one factor of scale for N-MPJPE",
        truth="motion capture",
    ),
    Protocol(
        "h36m-p2",
        "body",
        ("pa_mpjpe", "mpjpe"),
        "Human3.6M protocol 2 as mesh recovery has it since HMR: subjects 9 and 11, frontal "
        "camera, the 14 joints common with LSP.",
        joint_set="h36m17",
        joints=_LSP14,
        root="pelvis",
        regressor=_H36M_REGRESSOR,
        alignment="similarity without mirror images for PA figures",
        truth="motion capture",
    ),
    Protocol(
        "3dhp",
        "body",
        ("pck_150", "auc_150", "mpjpe"),
        "MPI-INF-3DHP's test set by its own script: PCK within 150 mm, and its mean over 0, 5, ... "
        "150 mm. The root is not judged.",
        joint_set="mpi17",
        joints=tuple(j for j in MPI17 if j not in ("pelvis", "spine", "head")),
        root="pelvis",
        truth="markerless motion capture, not scaled to the universal skeleton",
        unit="% and mm",
    ),
    Protocol(
        "agora",
        "body",
        ("nmje", "nmve", "mpjpe", "pve", "f1"),
        "AGORA's SMPL track: errors of the people found, and the same over F1, so that leaving out "
        "the hard ones does not pay.",
        joint_set="smpl24",
        joints=SMPL24,
        root="pelvis",
        truth="SMPL-X fits of scans, brought to neutral SMPL",
        misses="people not found and people made up lower F1; errors are of those found",
        complete=False,
        unit="mm and %",
    ),
)
_HAND = (
    Protocol(
        "freihand",
        "hand",
        ("joint_aligned", "mesh_aligned", "f_5", "f_15", "joint_auc", "mesh_auc"),
        "FreiHAND's evaluation. Its alignment fits joints and mesh each by themselves and TAKES "
        "MIRROR IMAGES: a left hand predicted for a right one has no error.",
        joint_set="freihand21",
        joints=FREIHAND21,
        alignment="centred, orthogonal Procrustes with mirror images, its own scale",
        truth="MANO fits, metres, in the camera's frame",
        unit="mm and %",
        vertices=778,
        layout="freihand",
    ),
    Protocol(
        "synthetic-hand",
        "body",
        ("pa_mpjpe", "mpjpe", "pa_pve", "pve", "f_5", "f_15"),
        "This project's own hands: MANO's 16 joints and the finger tips, from the wrist.",
        joint_set="mano21",
        joints=MANO21,
        root="wrist",
        alignment="similarity without mirror images for PA figures, FreiHAND's for F-scores",
        truth="the labelled hand",
        unit="mm and %",
    ),
)
_IMAGE = (
    Protocol(
        "coco-keypoints",
        "keypoints",
        _AP,
        "COCO's keypoint evaluation through pycocotools: average precision over object keypoint "
        "similarity 0.50:0.05:0.95, at most 20 people to a picture. With boxes from ground truth "
        "it is easier than with a detector's; say which. Of a collection, which keeps no annotated "
        "area, a person's area is that of the mask, or 0.53 of the box without one.",
        joint_set="coco17",
        joints=COCO17,
        truth="people's marks",
        misses=_NOT_FOUND,
        complete=False,
        unit="%",
        layout="coco",
    ),
    Protocol(
        "crop-pck",
        "pixels",
        ("pck_005", "pck_01", "joint_error"),
        "This project's own: joints within a share of the person's size, on crops of one person.",
        misses="joints outside the crop do not count",
        unit="%",
    ),
    Protocol(
        "densepose-coco",
        "dense",
        _DENSE,
        "DensePose-COCO: average precision over geodesic point similarity at the annotated points, "
        "each part with its own normaliser, and over its geometric mean with the masks' overlap.",
        truth="people's marks",
        misses=_NOT_FOUND + _NO_POINT,
        complete=False,
        unit="%",
        kappas=tuple(_COARSE[coarse] for coarse in _COARSE_OF_PART),
    ),
    Protocol(
        "synthetic-dense",
        "dense",
        ("surface_right", "part_iou", "uv_error", *_DENSE),
        "This project's own 14 parts, judged on every pixel of the person; average precision as "
        "dense pose has it, at points of the labelled pixels, with the paper's normaliser 0.255 m "
        "and ways along the edges of the free body.",
        truth="rendered, exact",
        misses=_NOT_FOUND + _NO_POINT,
        complete=False,
        unit="%",
    ),
    Protocol(
        "part-pixels",
        "pixels",
        ("part_iou", "person_iou"),
        "This project's own: overlap of the body's parts, mean over the parts in sight.",
        unit="%",
    ),
)
_CLASSES = tuple(
    Protocol(name, "classes", figures, doc, unit="%", truth=truth)
    for name, figures, doc, truth in (
        (
            "hagrid",
            ("macro_f1", "accuracy", "uncertainty"),
            "HaGRID's gestures, split by person: mean over classes of their F1.",
            "the class asked of the person",
        ),
        (
            "gun71",
            ("accuracy", "macro_f1", "uncertainty"),
            "GUN-71's 71 grasps: share of pictures with the right class first.",
            "people's marks",
        ),
        (
            "classes",
            ("accuracy", "macro_f1", "uncertainty"),
            "Classification of whole pictures: share of pictures with the right class first.",
            "as annotated",
        ),
    )
)

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol for protocol in (*_BODY, *_HAND, *_IMAGE, *_CLASSES)
}
