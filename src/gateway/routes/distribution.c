/* What strangers may know of the installation (spec 03 §20): made at boot, no file is touched here. */
#include "gateway/gateway_priv.h"

#include "base/banned.h"

void gw_get_distribution(struct gw_call *call)
{
    gw_reply_json(call, &call->g->distro.info);
}

void gw_get_onboarding(struct gw_call *call)
{
    gw_reply_json(call, &call->g->distro.onboarding);
}
