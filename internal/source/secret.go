package source

// SecretData returns what of the credentials is for the repository at rawURL, in the form of a Secret's data, which
// CredentialsFromSecret reads back. It is empty when nothing fits.
func (c *Credentials) SecretData(rawURL string) (map[string][]byte, error) {
	a, err := parseAddress(rawURL, true)
	if err != nil {
		return nil, err
	}
	fit := c.forAddress(a)
	data := map[string][]byte{}
	for key, value := range map[string][]byte{
		"username": []byte(fit.Username), "password": []byte(fit.Password), "bearerToken": []byte(fit.BearerToken),
		"identity": fit.Identity, "passphrase": []byte(fit.Passphrase), "known_hosts": fit.KnownHosts, "caFile": fit.CABundle,
		"githubAppID": []byte(fit.App.ID), "githubAppInstallationID": []byte(fit.App.Installation), "githubAppPrivateKey": fit.App.PrivateKey,
		"githubAppBaseURL": []byte(fit.App.BaseURL),
	} {
		if len(value) > 0 {
			data[key] = value
		}
	}
	return data, nil
}
