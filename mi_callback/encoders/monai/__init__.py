"""Networks of MONAI, of images and of volumes, with weights from files.

A network without a checkpoint is an error. `checkpoint="random"` asks for random weights by name, drawn from `seed`: a
baseline that finds unchanged copies and says what the training of a network adds.

MONAI is imported when an encoder is built: it takes seconds. Its ViT and SwinUNETR need einops besides, which
`pip install 'mi-callback[monai]'` installs.
"""

from mi_callback.encoders.monai.bundle import build_monai_bundle
from mi_callback.encoders.monai.resnet import build_medicalnet, build_monai_resnet
from mi_callback.encoders.monai.swin_unetr import build_swin_unetr
from mi_callback.encoders.monai.vit import build_monai_vit

__all__ = ["build_medicalnet", "build_monai_bundle", "build_monai_resnet", "build_monai_vit", "build_swin_unetr"]
